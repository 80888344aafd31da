"""The cells of a grid as the features of a picture, for explanations."""

from typing import Any, Dict, Mapping, Tuple

import numpy as np

from handlers.features import Explanation, Features
from handlers.handler import read_count

_CELLS, _MOST_CELLS = 8, 32  # on a side


def number_cells(size: Tuple[int, int], parameters: Mapping[str, Any]) -> Tuple[np.ndarray, int]:
    """Return for each pixel of a picture (height, width) its cell's number, row by row, and the cells on a side.

    A client chooses them by ``grid``: 1 to 32, and no more than there are pixels; 8 by default.
    """
    height, width = size
    most = min(height, width, _MOST_CELLS)
    cells = read_count(parameters, "grid", min(_CELLS, most), most)
    rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
    return rows[:, None] * cells + columns[None, :], cells


def name_cells(cells: int) -> Tuple[Tuple[int, int], ...]:
    """Return (row, column) of each cell in the order of their numbers."""
    return tuple((row, column) for row in range(cells) for column in range(cells))


def present_grid(explanation: Explanation, features: Features) -> Dict[str, Any]:
    """Return an explanation with its weights as rows of the ``grid``, and ``errors`` likewise or None."""
    weights = explanation.weights()
    rows = [weights[start : start + features.grid[1]] for start in range(0, len(weights), features.grid[1])]
    errors = None if explanation.errors is None else [[each["error"] for each in row] for row in rows]
    return {**explanation.describe(), "grid": [[each["weight"] for each in row] for row in rows], "errors": errors}
