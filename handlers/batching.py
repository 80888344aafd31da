"""How requests become compiled batches: which batch sizes to run, padding up to them, and slicing back."""

from typing import List, Sequence, Tuple

import torch


def plan_batches(count: int, sizes: Sequence[int]) -> List[Tuple[int, int, int]]:
    """Return how to run ``count`` items with modules of the given batch ``sizes``: (start, stop, size) each.

    Full batches of the largest size first; what is left goes to the smallest size that holds it.

    >>> plan_batches(11, [1, 4, 8])
    [(0, 8, 8), (8, 11, 4)]
    """
    largest = max(sizes)
    steps = []
    start = 0
    while start < count:
        stop = min(start + largest, count)
        steps.append((start, stop, min(size for size in sizes if size >= stop - start)))
        start = stop
    return steps


def pad_batch(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Return ``tensor`` with its first dimension brought to ``size`` by repeating the last item.

    A real item is repeated rather than zeros, because it cannot bring in values that the model never sees.
    """
    missing = size - tensor.shape[0]
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
