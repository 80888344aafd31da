"""How well words were found: boxes are matched with words at an intersection over union of one half or more."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_OVERLAP = 0.5  # of the areas of a box and its word, intersection over union (ICDAR's rule)


@dataclass(frozen=True)
class Score:
    """Counts over pictures."""

    words: int = 0  # that are in them
    boxes: int = 0  # that were answered
    matches: int = 0  # each of one word with one box

    @property
    def recall(self) -> float:
        """Share of the words that were found."""
        return self.matches / max(self.words, 1)

    @property
    def precision(self) -> float:
        """Share of the boxes that hold a word."""
        return self.matches / max(self.boxes, 1)

    def __add__(self, other: "Score") -> "Score":
        return Score(self.words + other.words, self.boxes + other.boxes, self.matches + other.matches)


def score_boxes(words: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Score:
    """Return the counts for one picture; words and boxes are convex polygons, float (corners, 2)."""
    overlaps = [
        (intersection_over_union(word, box), one, other)
        for one, word in enumerate(words)
        for other, box in enumerate(boxes)
    ]
    used_words: set[int] = set()
    used_boxes: set[int] = set()
    for overlap, one, other in sorted(overlaps, key=lambda each: -each[0]):
        if overlap >= LEAST_OVERLAP and one not in used_words and other not in used_boxes:
            used_words.add(one)
            used_boxes.add(other)
    return Score(len(words), len(boxes), len(used_words))


def intersection_over_union(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of two convex polygons' union that both cover; their corners go round in the same sense."""
    if (one.max(axis=0) < other.min(axis=0)).any() or (other.max(axis=0) < one.min(axis=0)).any():
        return 0.0
    both = _area(_clip(one, other))
    union = _area(one) + _area(other) - both
    return both / union if union > 0 else 0.0


def _clip(subject: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return the part of a convex polygon within another (Sutherland and Hodgman 1974)."""
    corners = [tuple(point) for point in subject]
    for start, end in zip(window, np.roll(window, -1, axis=0), strict=True):
        side = [(end[0] - start[0]) * (y - start[1]) - (end[1] - start[1]) * (x - start[0]) for x, y in corners]
        kept = []
        for index, (point, here) in enumerate(zip(corners, side, strict=True)):
            before, there = corners[index - 1], side[index - 1]
            if (here >= 0) != (there >= 0):
                share = there / (there - here)
                kept.append((before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])))
            if here >= 0:
                kept.append(point)
        corners = kept
        if not corners:
            break
    return np.array(corners).reshape(-1, 2)


def _area(polygon: np.ndarray) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
