"""Shapes on a grid: components against a flood fill, rectangles against a search over angles."""

import math

import numpy as np
import pytest

from handlers import polygons
from tests.text_pictures import scoring

MASKS = [(seed, share) for seed in range(8) for share in (0.05, 0.4, 0.6, 0.95)]


def flood_fill(mask: np.ndarray) -> np.ndarray:
    """Each pixel's component, numbered in reading order, -1 outside: the obvious way, slowly."""
    labels = np.full(mask.shape, -1)
    count = 0
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start] != -1:
            continue
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if inside and mask[row, column] and labels[row, column] == -1:
                labels[row, column] = count
                waiting += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        count += 1
    return labels


@pytest.mark.parametrize(("seed", "share"), MASKS)
def test_components_are_those_of_a_flood_fill(seed, share):
    """For masks from nearly empty to nearly full."""
    mask = np.random.default_rng(seed).random((23, 31)) < share
    components = polygons.find_components(mask)
    expected = flood_fill(mask)
    assert components.total == expected.max() + 1
    assert (components.paint(mask.shape) == expected).all()


def spiral(side: int) -> np.ndarray:
    """A line that winds to the middle: the longest way from one end of a component to the other."""
    mask = np.zeros((side, side), bool)
    top, left, bottom, right = 0, 0, side - 1, side - 1
    while top <= bottom and left <= right:
        mask[top, left : right + 1] = mask[top : bottom + 1, right] = mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        if top + 2 <= bottom:
            mask[top + 2, left : left + 2] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((9, 9), bool),
        np.ones((9, 9), bool),
        np.indices((9, 9)).sum(axis=0) % 2 == 0,  # a chessboard: pixels that touch at corners are apart
        np.tile(np.arange(9) % 2 == 0, (9, 1)),
        np.vstack([np.tile(np.arange(9) % 2 == 0, (8, 1)), np.ones((1, 9), bool)]),  # a comb
        spiral(33),
        np.ones((1, 7), bool),
        np.ones((7, 1), bool),
    ],
    ids=["empty", "full", "chessboard", "stripes", "comb", "spiral", "row", "column"],
)
def test_odd_masks_have_the_components_of_a_flood_fill(mask):
    """Shapes whose parts are found to be one only late, and those without parts."""
    assert (polygons.find_components(mask).paint(mask.shape) == flood_fill(mask)).all()


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_those_of_the_painted_pixels(seed):
    """Area, width and height of each component."""
    mask = np.random.default_rng(seed).random((19, 27)) < 0.5
    components = polygons.find_components(mask)
    labels, measures = components.paint(mask.shape), components.measure()
    for number in range(components.total):
        rows, columns = np.nonzero(labels == number)
        found = (measures.areas[number], measures.widths[number], measures.heights[number])
        assert found == (len(rows), np.ptp(columns) + 1, np.ptp(rows) + 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_hull_holds_all_points_and_only_turns_one_way(seed):
    """All points lie at the inner side of each of its sides."""
    points = np.random.default_rng(seed).integers(0, 12, (40, 2)).astype(float)
    hull = polygons.convex_hull(points)
    sides = np.roll(hull, -1, axis=0) - hull
    away = points[:, None] - hull
    assert (sides[:, 0] * away[..., 1] - sides[:, 1] * away[..., 0] >= 0).all()
    assert all(corner in points.tolist() for corner in hull.tolist())


@pytest.mark.parametrize("seed", range(10))
def test_no_other_angle_gives_a_smaller_rectangle(seed):
    """A search over a thousandth of a right angle each finds none, and every point is inside."""
    random = np.random.default_rng(seed)
    points = random.normal(0, 1, (int(random.integers(3, 60)), 2)) @ random.normal(0, 3, (2, 2))
    rectangle = polygons.smallest_rectangle(points)
    angles = np.arange(1000) * (math.pi / 2000)
    along = points @ np.stack([np.cos(angles), np.sin(angles)])
    across = points @ np.stack([-np.sin(angles), np.cos(angles)])
    width, height = rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]
    area = np.hypot(*width) * np.hypot(*height)
    assert area <= (np.ptp(along, axis=0) * np.ptp(across, axis=0)).min() + 1e-9
    for side in (width, height):
        reach = (points - rectangle[0]) @ side / (side @ side)
        assert reach.min() >= -1e-9
        assert reach.max() <= 1 + 1e-9


@pytest.mark.parametrize(
    ("points", "corners"),
    [
        ([(3, 4)], {(3, 4)}),
        ([(3, 4), (3, 4)], {(3, 4)}),
        ([(1, 1), (5, 1)], {(1, 1), (5, 1)}),
        ([(1, 1), (3, 3), (2, 2)], {(1, 1), (3, 3)}),
        ([(0, 0), (4, 0), (4, 2), (0, 2), (2, 1)], {(0, 0), (4, 0), (4, 2), (0, 2)}),
    ],
    ids=["point", "same points", "level", "slanted line", "box"],
)
def test_the_rectangle_of_few_points_is_as_thin_as_they_are(points, corners):
    """A point or a line has a rectangle without area."""
    found = polygons.smallest_rectangle(np.array(points, float))
    assert {tuple(np.round(corner, 9)) for corner in found.tolist()} == corners


@pytest.mark.parametrize("angle", [-80, -45, -15, 0, 3, 30, 60])
def test_a_drawn_rectangle_comes_back(angle):
    """A turned rectangle of 60 x 20 pixels, filled on a grid, is found at an overlap of 90 % or more."""
    turn = math.radians(angle)
    rows, columns = np.indices((120, 120)) + 0.5 - 60
    across, down = columns * math.cos(turn) + rows * math.sin(turn), rows * math.cos(turn) - columns * math.sin(turn)
    runs = polygons.find_runs((np.abs(across) < 30) & (np.abs(down) < 10))
    ends = np.concatenate([runs.starts, runs.stops - 1])
    centres = np.stack([ends, np.tile(runs.rows, 2)], axis=1) + 0.5
    found = polygons.smallest_rectangle(polygons.grow(centres, 0.5)) - 60
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    drawn = np.array([(-30, -10), (30, -10), (30, 10), (-30, 10)]) @ rotation
    assert scoring.intersection_over_union(drawn, found) >= 0.9


@pytest.mark.parametrize("seed", range(5))
def test_corners_go_clockwise_from_the_upper_left(seed):
    """As one sees them, with y downwards."""
    corners = polygons.smallest_rectangle(np.random.default_rng(seed).normal(0, 5, (20, 2)))
    following = np.roll(corners, -1, axis=0)
    assert (corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]).sum() > 0
    assert corners.sum(axis=1).argmin() == 0


def box(left: float, top: float, width: float = 40, height: float = 20) -> np.ndarray:
    return np.array([(left, top), (left + width, top), (left + width, top + height), (left, top + height)], float)


@pytest.mark.parametrize(
    ("boxes", "order"),
    [
        ([], []),
        ([box(0, 50), box(0, 0)], [1, 0]),
        ([box(100, 0), box(0, 0)], [1, 0]),
        ([box(100, 0), box(0, 6), box(0, 40)], [1, 0, 2]),  # the second slants a little
        ([box(0, 15), box(100, 0)], [1, 0]),  # too low to be the same line
    ],
    ids=["none", "lines", "columns", "slanted", "steps"],
)
def test_boxes_are_read_line_by_line(boxes, order):
    """From the top, and from the left within a line."""
    assert polygons.reading_order(boxes) == order
