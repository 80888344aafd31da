"""The benchmark: the kit, TorchServe as shipped, and no server at all, in turn, in one run."""

import platform
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from benchmarking.figures import Interval, interval, ratio
from benchmarking.limit import Limit, measure_limit
from benchmarking.measuring import Sample, measure
from benchmarking.prices import Price
from benchmarking.systems import STOCK_BATCH, Running, run_kit, run_stock
from handlers.artifact import Record
from serving.host import count_processors

OPEN_SHARE = 0.7  # of the highest rate of a closed loop, at which the tail of latencies is looked at
_OPEN_CONNECTIONS = 256  # so many requests can be on their way at once; more wait, and are charged for it
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What to measure."""

    archive: Path
    record: Record
    model: str  # name or path of the recipe, for the stock way; "" leaves that out
    port: int
    concurrencies: Sequence[int] = (1, 16, 64)
    seconds: float = 5.0  # of each run of load
    rounds: int = 3  # turns that each system has
    workers: int = 0  # of the kit; 0: one for each processor
    price: Price | None = None


@dataclass
class Outcome:
    """All that was measured."""

    model: str
    version: str
    target: str
    emulated: bool
    machine: str
    day: str  # ISO 8601
    price: Price | None
    samples: list[Sample] = field(default_factory=list)
    open_samples: list[Sample] = field(default_factory=list)  # of open loops
    limits: list[Limit] = field(default_factory=list)
    start_seconds: dict[str, list[float]] = field(default_factory=dict)  # by system: launch to first right answer

    def systems(self) -> list[str]:
        """Return the systems in the order in which they were measured."""
        return list(dict.fromkeys(sample.system for sample in self.samples))

    def rates(self, system: str, concurrency: int) -> list[float]:
        """Return the rates of a system's rounds."""
        found = [each for each in self.samples if (each.system, each.concurrency) == (system, concurrency)]
        return [each.rate for each in found]

    def ratios(self) -> dict[str, Interval]:
        """Return the figures that hold on another machine too: the kit over what it is compared with."""
        found: dict[str, Interval] = {}
        for concurrency in dict.fromkeys(sample.concurrency for sample in self.samples):
            mine = self.rates("kit", concurrency)
            stock = [self.rates(system, concurrency) for system in self.systems() if system != "kit"]
            if stock:
                found[f"rate over the better stock server, {concurrency} at a time"] = ratio(mine, _best(stock))
            if concurrency > 1:
                limits = [each.rate for each in self.limits]
                found[f"rate over no server at all, {concurrency} at a time"] = ratio(mine, limits)
        tails = [each.latency_ms["99"] / each.latency_ms["50"] for each in self.open_samples if each.system == "kit"]
        if tails:
            found[f"p99 over p50 at {OPEN_SHARE:.0%} of the highest rate"] = interval(tails)
        return found


def run_bench(plan: BenchPlan, *, progress: Progress) -> Outcome:
    """Return what the plan asks for; raise ``ServerError`` if a server does not start."""
    variant = plan.record.variants[0]
    outcome = Outcome(
        model=plan.record.name,
        version=plan.record.version,
        target=variant.target,
        emulated=variant.emulated,
        machine=f"{platform.machine()}, {count_processors()} processors, Python {platform.python_version()}",
        day=date.today().isoformat(),
        price=plan.price,
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as name, zipfile.ZipFile(plan.archive) as opened:
        folder = Path(name)
        opened.extractall(folder)
        requests = [((folder / each.file).read_bytes(), each.content_type) for each in plan.record.golden]
        for turn in range(plan.rounds):
            for start in _systems(plan):
                with start as running:
                    progress(f"round {turn + 1} of {plan.rounds}: {running.name}")
                    _measure_system(plan, running, requests, outcome)
            progress(f"round {turn + 1} of {plan.rounds}: no server")
            processes = plan.workers or count_processors()
            outcome.limits.append(measure_limit(folder, processes=processes, seconds=plan.seconds, batch=STOCK_BATCH))
    return outcome


def _systems(plan: BenchPlan) -> Iterator[AbstractContextManager[Running]]:
    yield run_kit(plan.archive, plan.record, plan.port, workers=plan.workers)
    for workers in (1, 2) if plan.model else ():
        yield run_stock(plan.model, plan.port, workers=workers)


def _measure_system(plan: BenchPlan, running: Running, requests: list[tuple[bytes, str]], outcome: Outcome) -> None:
    outcome.start_seconds.setdefault(running.name, []).append(running.seconds)
    highest = 0.0
    for concurrency in plan.concurrencies:
        sample = measure(running, plan.record, requests, seconds=plan.seconds, concurrency=concurrency)
        outcome.samples.append(sample)
        highest = max(highest, sample.rate)
    if highest:
        outcome.open_samples.append(
            measure(
                running,
                plan.record,
                requests,
                seconds=plan.seconds,
                concurrency=_OPEN_CONNECTIONS,
                rate=highest * OPEN_SHARE,
            )
        )


def _best(runs: list[list[float]]) -> list[float]:
    """Return the best of each round."""
    return [max(each) for each in zip(*runs, strict=True)]
