"""Figures of repeated runs: percentiles, and ratios with intervals that repetitions on a noisy machine allow."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median with the interval that 95 % of resampled medians fall into.

    Resampling knows only the runs that there were: the interval of ``runs`` values never reaches beyond them, holds the
    true median with a probability of at most 1 - 2 * 0.5 ** runs (75 % at three, 94 % at five), and of one value is
    that value and says nothing.
    """

    value: float
    low: float
    high: float
    runs: int = 0  # values that it is made from


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of values, NaN of none.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([1.0, 2.0, 3.0], 99)
    (2.0, 3.0)
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the median of values and its bootstrap interval (Efron 1979, percentile method, 2,000 resamples).

    A value that is no number, such as the latency of a server that refused everything, is left out.
    """
    values = [each for each in values if math.isfinite(each)]
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    chance = random.Random(seed)  # noqa: S311  no secret
    medians = [median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES)]
    return Interval(median(values), percentile(medians, 2.5), percentile(medians, 97.5), len(values))


def ratio(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the interval of the ratios of runs that were made in turn: the first over the first, and so on.

    Runs next to one another saw the same machine, so that a slow minute cancels out.
    """
    return interval([one / other for one, other in zip(values, others, strict=True) if other > 0])
