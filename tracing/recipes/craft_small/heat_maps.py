"""The maps that the detector learns: a bump on each character, and one between each two of a word."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from render import Word

# A bump's standard deviation over half its box's side. Above the published low_text of 0.4 lies then 0.74 of the box,
# which the published dilation of a found word brings back to the whole for text of common sizes.
_SPREAD = 0.55
_REACH = 1.6  # half sides beyond which a bump is left out; it has 0.015 there
_LEAST_HALF = 0.8  # of a box's side, in map pixels, or a map's grid could miss a thin character


def draw_maps(words: Sequence[Word], size: tuple[int, int]) -> np.ndarray:
    """Return the region and the affinity map of a picture of ``size`` (width, height): float32 (2, height/2, width/2).

    Width and height are even. A map's pixel covers four of the picture's.
    """
    maps = np.zeros((2, size[1] // 2, size[0] // 2), np.float32)
    for word in words:
        for quad in word.characters:
            _add_bump(maps[0], quad / 2)
        for one, other in pairwise(word.characters):
            _add_bump(maps[1], affinity_quad(one, other) / 2)
    return maps


def affinity_quad(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the box between two neighbouring characters' boxes, float (4, 2), clockwise from the upper left.

    Its corners are the centres of the upper and lower triangles that a box's diagonals cut off (Baek et al. 2019,
    section 3.1.1).
    """
    (upper_one, lower_one), (upper_other, lower_other) = _triangle_centres(one), _triangle_centres(other)
    return np.array([upper_one, upper_other, lower_other, lower_one])


def _triangle_centres(quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre = quad.mean(axis=0)
    return (quad[0] + quad[1] + centre) / 3, (quad[2] + quad[3] + centre) / 3


def _add_bump(target: np.ndarray, quad: np.ndarray) -> None:
    """Raise ``target`` to a gaussian that is warped to the parallelogram nearest to ``quad``."""
    centre = quad.mean(axis=0)
    across = _at_least((quad[1] + quad[2] - quad[0] - quad[3]) / 4)
    down = _at_least((quad[2] + quad[3] - quad[0] - quad[1]) / 4)
    reach = (np.abs(across) + np.abs(down)) * _REACH
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + reach) + 1, target.shape[::-1]).astype(int)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right) + 0.5 - centre[0]
    y = np.arange(top, bottom)[:, None] + 0.5 - centre[1]
    area = across[0] * down[1] - across[1] * down[0]
    along = (x * down[1] - y * down[0]) / area  # -1 to 1 within the box
    upright = (y * across[0] - x * across[1]) / area
    bump = np.exp(-(along**2 + upright**2) / (2 * _SPREAD**2))
    part = target[top:bottom, left:right]
    np.maximum(part, bump, out=part, casting="same_kind")


def _at_least(half_side: np.ndarray) -> np.ndarray:
    length = float(np.hypot(*half_side))
    return half_side * max(1.0, _LEAST_HALF / max(length, 1e-6))
