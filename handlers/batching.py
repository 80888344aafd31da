"""How requests become compiled batches: which bucket and batch sizes to run, and padding up to them."""

import math
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch

from handlers.artifact import TensorSpec

Step = Tuple[int, int, int]  # first item, first item of the next step, compiled batch size
_BATCH_SECONDS = 150e-6  # what a batch costs beside its model: collating, splitting, a call
_LOOK_AGAIN = 16  # plans from one plain one to the next
_NOTABLE, _CLEARLY = 0.95, 0.9  # a shorter time that is taken note of; a plan's time over the plain one's to be taken


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


def plan_batches(count: int, sizes: Sequence[int]) -> List[Step]:
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


class Planner:
    """Chooses the compiled batch sizes that run a number of items soonest, by the times that each size has taken.

    Five items in a batch of eight cost as much as eight; where a model's time grows with its batch, as on a CPU, four
    and one are sooner done. Where it hardly grows, as on a chip, one batch is.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self.seconds: Dict[int, float] = dict.fromkeys(sizes, math.inf)  # shortest run of each size so far
        self._plans: Dict[int, List[Step]] = {}
        self._asked = 0

    def observe(self, size: int, seconds: float) -> None:
        """Take note of how long a batch of ``size`` ran. The shortest counts: others shared the processor."""
        if seconds < _NOTABLE * self.seconds[size]:
            self.seconds[size] = seconds
            self._plans.clear()

    def plan(self, count: int) -> List[Step]:
        """Return how to run ``count`` items, as ``plan_batches`` does, or otherwise if that is clearly sooner done.

        Now and then as ``plan_batches`` does all the same: a size whose first run had to share its processor would
        otherwise never run again, and so never be seen to be quicker.
        """
        self._asked += 1
        if self._asked % _LOOK_AGAIN == 0:
            return plan_batches(count, list(self.seconds))
        if count not in self._plans:
            self._plans[count] = self._find_plan(count)
        return self._plans[count]

    def _find_plan(self, count: int) -> List[Step]:
        plain = plan_batches(count, list(self.seconds))
        if count < 2 or math.inf in self.seconds.values():
            return plain
        # best[n]: the least time for n items, and the size of the batch that is run first for it.
        best: List[Tuple[float, int]] = [(0.0, 0)]
        sizes = sorted(self.seconds, reverse=True)
        for items in range(1, count + 1):
            best.append(min((self._cost(size) + best[max(0, items - size)][0], -size) for size in sizes))
        if best[count][0] > _CLEARLY * sum(self._cost(size) for _, _, size in plain):
            return plain
        steps, start = [], 0
        while start < count:
            size = -best[count - start][1]
            steps.append((start, min(start + size, count), size))
            start += size
        return steps

    def _cost(self, size: int) -> float:
        return self.seconds[size] + _BATCH_SECONDS


def pad_batch(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Return ``tensor`` with its first dimension brought to ``size`` by repeating the last item.

    A real item is repeated rather than zeros, because it cannot bring in values that the model never sees.
    """
    missing = size - tensor.shape[0]
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
