"""Shapes on a grid, without OpenCV: connected components of a mask, convex hulls, the smallest rectangle around points.

Points are (x, y), y downwards; a pixel of row r and column c has its centre at (c + 0.5, r + 0.5).
"""

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np


class Runs(NamedTuple):
    """The runs of true pixels in a mask's rows, in reading order; int64 arrays of equal length."""

    rows: np.ndarray
    starts: np.ndarray  # first column
    stops: np.ndarray  # the column after the last


class Measures(NamedTuple):
    """What components measure, in pixels; int64 arrays with a value for each component."""

    areas: np.ndarray
    widths: np.ndarray  # of the upright box around it
    heights: np.ndarray


class Components(NamedTuple):
    """The connected components of a mask (pixels that share a side), numbered from 0 in reading order."""

    runs: Runs
    labels: np.ndarray  # of each run: its component's number
    total: int  # components

    def paint(self, shape: Tuple[int, ...]) -> np.ndarray:
        """Return each pixel's component, int64 of the mask's ``shape``, -1 where the mask is false."""
        labels = np.full(shape, -1)
        runs = self.runs
        lengths = runs.stops - runs.starts
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        labels[np.repeat(runs.rows, lengths), np.repeat(runs.starts, lengths) + within] = np.repeat(
            self.labels, lengths
        )
        return labels

    def measure(self) -> Measures:
        """Return what each component measures."""
        if not self.total:
            return Measures(*(np.zeros(0, np.int64) for _ in Measures._fields))
        order = np.argsort(self.labels, kind="stable")
        firsts = np.searchsorted(self.labels[order], np.arange(self.total))
        rows, starts, stops = (each[order] for each in self.runs)
        widths = np.maximum.reduceat(stops, firsts) - np.minimum.reduceat(starts, firsts)
        heights = np.maximum.reduceat(rows, firsts) - np.minimum.reduceat(rows, firsts) + 1
        return Measures(np.add.reduceat(stops - starts, firsts), widths, heights)


def find_runs(mask: np.ndarray) -> Runs:
    """Return the runs of a mask, bool of shape (rows, columns)."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return Runs(rows, starts, np.nonzero(edges == -1)[1])


def find_components(mask: np.ndarray) -> Components:
    """Return the components of a mask, bool of shape (rows, columns): runs that lie below one another are joined.

    A few milliseconds for text on a map of 256 x 256: no loop over pixels or runs.
    """
    runs = find_runs(mask)
    upper, lower = _touching(runs, mask.shape[1])
    roots = _join(len(runs.rows), upper, lower)
    found, labels = np.unique(roots, return_inverse=True)
    return Components(runs, labels, len(found))


def _touching(runs: Runs, columns: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the pairs of runs that share a column in rows below one another: numbers of the upper and of the lower."""
    # Rows and columns as one growing number, so that one search finds the range of runs below each run.
    pitch = columns + 1
    below = (runs.rows + 1) * pitch
    first = np.searchsorted(runs.rows * pitch + runs.stops, below + runs.starts, side="right")
    last = np.searchsorted(runs.rows * pitch + runs.starts, below + runs.stops, side="left")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(runs.rows)), counts)
    within = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + within


def _join(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each of ``count`` nodes the smallest that it is connected with by the edges ``one`` to ``other``."""
    parents = np.arange(count)
    while True:
        low, high = np.minimum(parents[one], parents[other]), np.maximum(parents[one], parents[other])
        open_edges = low != high
        if not open_edges.any():
            return parents
        # Roots hook onto smaller roots, then every path is shortened to its root: no loop over pixels or runs.
        np.minimum.at(parents, high[open_edges], low[open_edges])
        shorter = parents[parents]
        while (shorter != parents).any():
            parents, shorter = shorter, shorter[shorter]


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Return the corners of the convex hull of points, float (N, 2), without repetition (Andrew's monotone chain).

    One corner for points that are all the same, two for points on a line. The corners go round clockwise as one sees
    them with y downwards.
    """
    ordered = np.unique(points, axis=0).tolist()
    if len(ordered) < 3:
        return np.array(ordered, dtype=np.float64)
    there, back = _chain(ordered), _chain(ordered[::-1])
    return np.array(there[:-1] + back[:-1], dtype=np.float64)


def _chain(ordered: Sequence[Sequence[float]]) -> List[Sequence[float]]:
    chain: List[Sequence[float]] = []
    for x, y in ordered:
        while len(chain) > 1:
            (before_x, before_y), (last_x, last_y) = chain[-2], chain[-1]
            if (last_x - before_x) * (y - before_y) - (last_y - before_y) * (x - before_x) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain


def smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """Return the corners, float (4, 2), of the rectangle of least area around points, at any angle.

    One of its sides lies along a side of the convex hull (Freeman and Shapira 1975), so each of these is tried. The
    corners go round clockwise as one sees them, from the one with the least x + y.
    """
    hull = convex_hull(points)
    sides = np.roll(hull, -1, axis=0) - hull
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    directions = sides[lengths > 0] / lengths[lengths > 0][:, None] if len(hull) > 1 else np.array([[1.0, 0.0]])
    along = hull @ directions.T  # (corners, directions)
    across = hull @ np.stack([-directions[:, 1], directions[:, 0]])
    extents = np.ptp(along, axis=0), np.ptp(across, axis=0)
    best = int(np.argmin(extents[0] * extents[1]))
    direction = directions[best]
    normal = np.array([-direction[1], direction[0]])
    left, right = along[:, best].min(), along[:, best].max()
    top, bottom = across[:, best].min(), across[:, best].max()
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return from_upper_left(np.array([a * direction + b * normal for a, b in corners]))


def from_upper_left(corners: np.ndarray) -> np.ndarray:
    """Return corners, float (N, 2), in their order but beginning with the one of least x + y."""
    return np.roll(corners, -int(np.argmin(np.round(corners.sum(axis=1), 6))), axis=0)


def grow(points: np.ndarray, reach: float) -> np.ndarray:
    """Return points whose hull is that of ``points`` with a square of side 2 x ``reach`` around each."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * reach
    return (points[:, None, :] + corners).reshape(-1, 2)


def reading_order(polygons: Sequence[np.ndarray]) -> List[int]:
    """Return the numbers of polygons, float (4, 2) each, line by line from the top, each line from the left.

    A polygon continues a line if its centre is at most half the height of the line's first from that one's centre.
    """
    if not polygons:
        return []
    centres = np.array([polygon.mean(axis=0) for polygon in polygons])
    heights = np.array([np.ptp(polygon[:, 1]) for polygon in polygons])
    lines: List[List[int]] = []
    for number in np.argsort(centres[:, 1], kind="stable").tolist():
        if lines and abs(centres[number, 1] - centres[lines[-1][0], 1]) <= heights[lines[-1][0]] / 2:
            lines[-1].append(number)
        else:
            lines.append([number])
    return [number for line in lines for number in sorted(line, key=lambda each: (centres[each, 0], each))]
