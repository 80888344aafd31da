"""What the small detector learns from: rendered words with their places, and the maps drawn from them."""

import itertools

import numpy as np
import pytest

from tests.text_pictures import heat_maps, make_scenes, render, scoring

SQUARE = np.array([(0, 0), (12, 0), (12, 12), (0, 12)], float)


def moved(right: float, down: float) -> np.ndarray:
    """Return the square elsewhere."""
    return SQUARE + np.array([right, down])


@pytest.fixture(scope="module")
def scenes():
    """A dozen pictures of several sizes."""
    return make_scenes(12, seed=5)


def test_the_same_seed_draws_the_same_pictures(scenes):
    """A run can be repeated, and a test's pictures stay what they are."""
    again = make_scenes(12, seed=5)
    assert [scene.image.tobytes() for scene in again] == [scene.image.tobytes() for scene in scenes]


def test_another_seed_draws_others(scenes):
    """Training never sees what a test asks for."""
    others = {word.text for scene in make_scenes(12, seed=6) for word in scene.words}
    words = {word.text for scene in scenes for word in scene.words if len(word.text) > 4}
    assert words
    assert not words & others


def test_words_lie_inside_the_picture_and_apart_from_one_another(scenes):
    """So that each can be found."""
    for scene in scenes:
        for word in scene.words:
            assert (word.polygon >= -1).all()
            assert (word.polygon <= np.array(scene.image.size) + 1).all()
        for one, other in itertools.combinations(scene.words, 2):
            assert scoring.intersection_over_union(one.polygon, other.polygon) < 0.1


def test_a_words_box_is_that_of_its_characters(scenes):
    """The first one's left side and the last one's right side."""
    for word in [word for scene in scenes for word in scene.words]:
        assert len(word.characters) == len(word.text)
        ends = [word.characters[0][0], word.characters[-1][1], word.characters[-1][2], word.characters[0][3]]
        assert np.allclose(word.polygon, ends)


def test_ink_is_where_the_boxes_say():
    """Turned text on a plain background: at least 95 % of its ink is in the words' boxes."""
    style = render.Style(fonts=[render.BUILT_IN], least_size=20, most_size=30)
    block = render._lay_block((300, 200), style, np.random.default_rng(8))
    ink = np.asarray(block.mask, float)
    rows, columns = np.indices(ink.shape) + 0.5
    inside = np.zeros(ink.shape, bool)
    for word in block.words:
        sides = np.roll(word.polygon, -1, axis=0) - word.polygon
        to_left = [
            dx * (rows - y) - dy * (columns - x) >= 0
            for (x, y), (dx, dy) in zip(word.polygon.tolist(), sides.tolist(), strict=True)
        ]
        inside |= np.all(to_left, axis=0)
    assert ink[inside].sum() >= 0.95 * ink.sum() > 0


def test_the_box_between_two_characters_joins_their_triangles_centres():
    """Baek et al. 2019, section 3.1.1: of two squares of 12 side by side, from (6, 2) to (18, 10)."""
    quad = heat_maps.affinity_quad(SQUARE, moved(12, 0))
    assert np.allclose(quad, [(6, 2), (18, 2), (18, 10), (6, 10)])


def test_a_bump_is_one_at_its_centre_and_falls_to_the_sides():
    """A quarter of the box's side from its centre it is above 0.4, beyond the box below."""
    word = render.Word("a", 40 + SQUARE * 2, (40 + SQUARE * 2)[None])
    region, affinity = heat_maps.draw_maps([word], (100, 100))
    assert region[26, 26] > 0.97  # the centre, (52, 52), at half the resolution
    assert region[26, 29] > 0.4 > region[26, 32]
    assert not affinity.any()


def test_a_bump_turns_with_its_character():
    """Along a long box that slants it reaches further than across."""
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    quad = (np.array([(-30, -8), (30, -8), (30, 8), (-30, 8)]) @ turn) + 50
    region, _ = heat_maps.draw_maps([render.Word("a", quad, quad[None])], (100, 100))
    assert region[25 + 6, 25 + 8] > 0.4  # 10 along (0.8, 0.6)
    assert region[25 - 8, 25 + 6] < 0.05  # 10 across


@pytest.mark.parametrize(
    ("other", "share"),
    [(SQUARE, 1), (moved(6, 0), 1 / 3), (moved(13, 0), 0), (SQUARE / 2, 1 / 4), (moved(6, 6), 1 / 7)],
    ids=["same", "half", "apart", "inside", "corner"],
)
def test_overlap_is_intersection_over_union(other, share):
    """Of two convex polygons."""
    assert scoring.intersection_over_union(SQUARE, other) == pytest.approx(share)


def test_a_word_is_matched_with_one_box_only():
    """The better of two; the other counts against the precision."""
    score = scoring.score_boxes([SQUARE], [moved(2, 0), SQUARE, moved(40, 0)])
    assert (score.words, score.boxes, score.matches) == (1, 3, 1)
