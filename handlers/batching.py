"""How requests become compiled batches: which bucket and batch sizes to run, and padding up to them."""

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch

from handlers.artifact import TensorSpec


def choose_bucket(sample: Sequence[Any], buckets: Sequence[Sequence[TensorSpec]]) -> Optional[int]:
    """Return the index of the first bucket that holds a sample, or None.

    ``sample`` is one array or tensor for each input, without the batch dimension; ``buckets`` are the inputs of the
    compiled modules, smallest first. A size of -1 holds everything.
    """
    for index, specs in enumerate(buckets):
        if all(_fits(np.shape(each), spec.shape[1:]) for each, spec in zip(sample, specs)):
            return index
    return None


def pad_sample(sample: Sequence[Any], specs: Sequence[TensorSpec]) -> Tuple[Any, ...]:
    """Return a sample's arrays or tensors brought to a bucket's shape by zeros at the end of each dimension."""
    padded = []
    for each, spec in zip(sample, specs):
        missing = [max(size - found, 0) for size, found in zip(spec.shape[1:], np.shape(each))]
        if not any(missing):
            padded.append(each)
        elif isinstance(each, torch.Tensor):
            # torch wants the last dimension first.
            pads = [pad for size in reversed(missing) for pad in (0, size)]
            padded.append(torch.nn.functional.pad(each, pads))
        else:
            padded.append(np.pad(each, [(0, size) for size in missing]))
    return tuple(padded)


def _fits(found: Sequence[int], limit: Sequence[int]) -> bool:
    return len(found) == len(limit) and all(size == -1 or one <= size for one, size in zip(found, limit))


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
