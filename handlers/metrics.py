"""What a worker counts of its work: plain numbers, a microsecond or two for each batch; ``reporting`` sends them.

Nothing here is ever set back, so that whoever reports may read while a batch is counted: what it misses now it finds
the next time. Names, labels and meaning are those of ``docs/metrics.md``.
"""

import time
from bisect import bisect_left
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from handlers.errors import CannotServe, GoldenMismatch

Labels = Tuple[Tuple[str, str], ...]  # in an order that is the same for every series of a name

# Upper bounds in seconds: three to a decade where answers are expected, so that a quantile is off by a quarter or so.
TIME_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
STAGES = ("read", "preprocess", "model", "postprocess", "handle")
READ, PREPROCESS, MODEL, POSTPROCESS, HANDLE = range(len(STAGES))
STATUSES = (200, 400, 406, 413, 415, 500, 501, 503)  # all that a worker gives
STEPS = ("prepare", "load", "warm_up", "golden")  # of a worker's start
_LONGEST_WAIT = 3600.0  # seconds; whoever says that a request waited longer has another clock


class Series(NamedTuple):
    """One number with its name and labels."""

    name: str
    unit: str
    labels: Labels
    value: float


class Histogram:
    """How often a value fell below each of some upper bounds, and the sum of all values.

    >>> histogram = Histogram((1.0, 2.0))
    >>> histogram.observe(1.5)
    >>> [(dict(each.labels).get("le"), each.value) for each in histogram.series("x", "Seconds", ())]
    [(None, 1), (None, 1.5), ('+Inf', 1), ('2', 1), ('1', 0)]
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value; one that equals a bound lies below it, as Prometheus has it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def series(self, name: str, unit: str, labels: Labels) -> Iterator[Series]:
        """Yield count, sum and cumulative buckets, largest first.

        A scrape that comes while they are taken in one by one so finds no bucket above a larger one.
        """
        counts, total = list(self.counts), self.total
        left = sum(counts)
        yield Series(f"{name}_count", "Count", labels, left)
        yield Series(f"{name}_sum", unit, labels, total)
        for bound, own in zip(("+Inf", *(f"{each:g}" for each in reversed(self.bounds))), reversed(counts)):
            yield Series(f"{name}_bucket", "Count", (*labels, ("le", bound)), left)
            left -= own


class Laps:
    """The seconds that each stage of one batch took, from a single clock read at the end of each."""

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the last batch; the first stage begins now."""
        self.seconds = [0.0] * len(STAGES)
        self._last = time.perf_counter()

    def end(self, stage: int) -> float:
        """Add the time since the last call to a stage, and return it."""
        now = time.perf_counter()
        took = now - self._last
        self.seconds[stage] += took
        self._last = now
        return took


class Waste:
    """What the compiled modules ran, and how much of it was padding: of items to a bucket, of a batch to its size."""

    __slots__ = ("computed", "fill", "padded", "runs")

    def __init__(self) -> None:
        self.computed = 0  # input values
        self.padded = 0  # those of them that no item holds
        self.fill = 0.0  # items over compiled batch size, summed over all runs
        self.runs = 0

    @property
    def share(self) -> float:
        """The share of padding, 0 to 1."""
        return self.padded / self.computed if self.computed else 0.0

    def count(self, *, computed: int, real: int, items: int, size: int) -> None:
        """Count one run of a module compiled for ``size`` items; ``real`` values are ``items`` items' own."""
        self.computed += computed
        self.padded += computed - real
        self.fill += items / size
        self.runs += 1


class Metrics:
    """All that one worker counts, and the state that it is in."""

    def __init__(self) -> None:
        self.stages = tuple(Histogram(TIME_BOUNDS) for _ in STAGES)
        self.waits = Histogram(TIME_BOUNDS)
        self.batches = Histogram(BATCH_BOUNDS)
        self.answers = dict.fromkeys(STATUSES, 0)
        self.waste = Waste()
        self.gauges: Dict[Tuple[str, Labels], float] = {}

    def count_batch(self, statuses: Sequence[int], seconds: Sequence[float]) -> None:
        """Count a batch by the statuses of its answers and its stages' times; a stage that did not come took none."""
        self.batches.observe(len(statuses))
        for status in statuses:
            self.answers[status] += 1
        for histogram, each in zip(self.stages, seconds):
            if each:
                histogram.observe(each)

    def count_wait(self, header: Any, now: float) -> None:
        """Count how long a request waited until ``now``, by its ``X-Request-Start: t=<seconds since 1970>``.

        A header of another form, or that lies an hour back, is no reason to fail; a clock slightly ahead counts as 0.
        """
        try:
            wait = now - float(str(header)[:40].partition("=")[2])
        except ValueError:
            return
        if -1.0 < wait <= _LONGEST_WAIT:
            self.waits.observe(max(wait, 0.0))

    def set_serving(self, place: Labels, *, seconds: Mapping[str, float], golden: bool) -> None:
        """Say that the worker serves at ``place``, how long its start took, and whether golden requests were checked.

        What it said while it had no core is taken back: nothing else removes a series from TorchServe.
        """
        for key in list(self.gauges):
            self.gauges[key] = 1
        self.gauges["tsn_worker_ready", place] = 1
        if golden:
            self.gauges["tsn_golden_check", place] = 1
        for step in STEPS:
            self.gauges["tsn_start_seconds", (*place, ("step", step))] = seconds.get(step, 0.0)

    def set_fault(self, fault: CannotServe) -> None:
        """Say that the worker cannot serve; it then holds no core."""
        self.gauges["tsn_worker_ready", make_place()] = 0
        if isinstance(fault, GoldenMismatch):
            self.gauges["tsn_golden_check", make_place()] = 0

    def counters(self) -> Iterator[Series]:
        """Yield every counter with its value since the worker started."""
        for stage, histogram in zip(STAGES, self.stages):
            yield from histogram.series("tsn_stage_seconds", "Seconds", (("stage", stage),))
        yield from self.waits.series("tsn_wait_seconds", "Seconds", ())
        yield from self.batches.series("tsn_batch_requests", "Count", ())
        yield Series("tsn_batch_fill_count", "Count", (), self.waste.runs)
        yield Series("tsn_batch_fill_sum", "Count", (), self.waste.fill)
        yield Series("tsn_computed_values", "Count", (), self.waste.computed)
        yield Series("tsn_padded_values", "Count", (), self.waste.padded)
        for status, count in self.answers.items():
            yield Series("tsn_answers", "Count", (("status", str(status)),), count)

    def states(self) -> List[Series]:
        """Return every gauge; the first is whether the worker can serve."""
        found = [Series(name, _unit(name), labels, value) for (name, labels), value in list(self.gauges.items())]
        return sorted(found, key=lambda each: each.name != "tsn_worker_ready")


def make_place(cores: Sequence[int] = (), target: str = "none", emulated: bool = False) -> Labels:
    """Return the labels of where a worker runs; its core is the first of its lease, ``none`` without one."""
    core = str(cores[0]) if cores else "none"
    return (("core", core), ("target", target), ("emulated", str(emulated).lower()))


def _unit(name: str) -> str:
    return "Seconds" if name.endswith("_seconds") else "Count"
