"""Heat maps: where colour goes, that the picture stays to be seen, sizes."""

import io

import numpy as np
import pytest
from PIL import Image

from handlers.heat_map import AGAINST, FOR, draw_heat_map
from handlers.images import find_crop, resize_to

SIDE = 256
WHOLE = (0, 0, SIDE, SIDE)


def make_photograph(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Return a picture with structure: rings of bright and dark."""
    rows, columns = np.mgrid[:height, :width]
    rings = 127.5 + 127 * np.sin(np.hypot(rows - height / 2, columns - width / 2) / 6)
    return Image.fromarray(np.repeat(rings.astype(np.uint8)[:, :, None], 3, axis=2))


def draw(picture: Image.Image, weights: np.ndarray, box=WHOLE) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw_heat_map(picture, weights, box)))).astype(np.float64)


def colourfulness(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=2) - pixels.min(axis=2)


def test_weights_for_and_against_differ_in_colour():
    """Orange where they speak for the target, violet where against, grey where they are zero."""
    weights = np.zeros((4, 4))
    weights[0, 0], weights[3, 3] = 1.0, -1.0
    grey = Image.new("RGB", (SIDE, SIDE), (127, 127, 127))
    drawn = draw(grey, weights)
    for place, colour in (((20, 20), FOR), ((236, 236), AGAINST)):
        direction = drawn[place] - 127.5
        wanted = np.array(colour) - 127.5
        assert direction @ wanted / np.linalg.norm(direction) / np.linalg.norm(wanted) > 0.99
    assert colourfulness(drawn)[20, 236] == 0


def test_the_two_colours_differ_without_red_and_green():
    """Blue less yellow, which people see who cannot tell red from green, has opposite signs."""
    opponent = [blue - (red + green) / 2 for red, green, blue in (FOR, AGAINST)]
    assert opponent[0] < -60
    assert opponent[1] > 60


def test_colour_grows_with_the_weight():
    """Half a weight is half as opaque."""
    grey = Image.new("RGB", (SIDE, SIDE), (127, 127, 127))
    strong, weak = (colourfulness(draw(grey, np.array([[1.0, each], [0, 0]])))[5, -5] for each in (1.0, 0.5))
    assert weak == pytest.approx(strong / 2, rel=0.05)


@pytest.mark.parametrize("weights", [np.ones((8, 8)), -np.eye(8), np.zeros((8, 8))])
def test_the_picture_stays_recognisable(weights):
    """Its light and dark correlate with the drawn one's everywhere, under the strongest colour too."""
    picture = make_photograph()
    drawn = draw(picture, weights)
    before = np.asarray(picture.convert("L"), np.float64)
    for rows in range(0, SIDE, 64):
        part = (slice(rows, rows + 64), slice(rows, rows + 64))
        assert np.corrcoef(before[part].ravel(), drawn.mean(axis=2)[part].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("known", [np.nan, np.inf, 0.0])
def test_what_is_not_known_is_not_painted(known):
    """Parts for which time did not suffice, and all of a map without weights, are the picture in grey."""
    assert colourfulness(draw(make_photograph(), np.full((4, 4), known))).max() == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((32, 32), (256, 256)),
        ((8, 64), (32, 256)),
        ((500, 300), (500, 300)),
        ((3000, 1500), (1024, 512)),
        ((5000, 1), (1024, 1)),
    ],
)
def test_the_size_is_the_pictures_own_within_bounds(size, expected):
    """Of 256 to 1024 pixels on the longer side, in the same proportions."""
    drawn = draw(Image.new("RGB", size), np.ones((2, 2)), (0, 0, *size))
    assert drawn.shape == (expected[1], expected[0], 3)


def test_only_what_the_model_saw_is_painted():
    """A wide picture is cropped for a square model; the sides that it never saw stay grey."""
    picture = make_photograph(600, 300)
    box = find_crop(picture.size, (32, 32), crop_share=1.0)
    painted = colourfulness(draw(picture, np.ones((4, 4)), box)) > 0
    assert box == (150, 0, 450, 300)
    assert painted[:, 155:445].all()
    assert not painted[:, :149].any()
    assert not painted[:, 451:].any()


def test_the_crop_is_the_one_that_the_model_saw():
    """A bright spot in the crop's corner is in the corner of what goes into the model."""
    pixels = np.zeros((300, 600, 3), np.uint8)
    left, top, _, _ = find_crop((600, 300), (32, 32), crop_share=0.5)
    pixels[int(top) : int(top) + 20, int(left) : int(left) + 20] = 255
    seen = resize_to(Image.fromarray(pixels), (32, 32), crop_share=0.5)
    assert seen[0, 0].min() > 150
    assert seen[6:, 6:].max() == 0


def test_a_map_is_the_same_file_each_time():
    """No clock, no chance."""
    weights = np.arange(16.0).reshape(4, 4)
    assert draw_heat_map(make_photograph(), weights, WHOLE) == draw_heat_map(make_photograph(), weights, WHOLE)
