"""The benchmark: the kit, TorchServe as shipped, Triton, and no server at all, in turn, in one run."""

import copy
import math
import platform
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from benchmarking.bare import measure_bare, read_peak_mb
from benchmarking.limit import measure_limit
from benchmarking.measuring import Sample, measure
from benchmarking.outcome import OPEN_SHARE, OWN_GENERATOR, Outcome
from benchmarking.prices import Price
from benchmarking.steps import Steps
from benchmarking.systems import STOCK_BATCH, Running, run_kit, run_stock
from benchmarking.triton import run_triton
from benchmarking.wrk import find_wrk
from handlers.artifact import Record
from handlers.errors import KitError
from serving.host import count_processors

_OPEN_CONNECTIONS = 256  # so many requests can be on their way at once; more wait, and are charged for it
_STEADY = 1.1  # highest of three figures over the lowest
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What to measure."""

    archive: Path
    record: Record
    model: str  # name or path of the recipe, for the peers; "" leaves them out
    port: int
    concurrencies: Sequence[int] = (1, 16, 64)
    seconds: float = 5.0  # of each run of load
    rounds: int = 3  # turns that each system has
    workers: int = 0  # of the kit; 0: one for each processor
    price: Price | None = None
    stock: bool = True  # TorchServe as shipped is measured too
    triton: Path | None = None  # Triton too: the interpreter of an environment with nvidia-pytriton
    warm_up: int = 12  # runs of load at most before a system is measured
    by_wrk: bool = False  # closed loops are driven by wrk instead of the own generator


def run_bench(plan: BenchPlan, *, progress: Progress) -> Outcome:
    """Return what the plan asks for; raise ``ServerError`` if a server does not start.

    If one fails in a later round, the rounds before it are not lost: the outcome is theirs, and says why.
    """
    variant = plan.record.variants[0]
    outcome = Outcome(
        model=plan.record.name,
        version=plan.record.version,
        target=variant.target,
        emulated=variant.emulated,
        machine=f"{platform.machine()}, {count_processors()} processors, Python {platform.python_version()}",
        day=date.today().isoformat(),
        price=plan.price,
        generator=find_wrk() if plan.by_wrk else OWN_GENERATOR,
        batch_size=max(module.batch for module in variant.modules),
        rounds=plan.rounds,
        seconds=plan.seconds,
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as name, zipfile.ZipFile(plan.archive) as opened:
        folder = Path(name)
        opened.extractall(folder)
        requests = [((folder / each.file).read_bytes(), each.content_type) for each in plan.record.golden]
        steps = Steps(_count_steps(plan), progress)
        for turn in range(plan.rounds):
            where = f"round {turn + 1} of {plan.rounds}"
            whole = copy.deepcopy(outcome)
            try:
                _measure_round(plan, folder, requests, outcome, partial(_begin, steps, f"{where}: "))
            except KitError as exc:
                if not turn:
                    raise
                whole.rounds, whole.cut_short = turn, f"{where}: {exc}"
                return whole
    return outcome


def _measure_round(
    plan: BenchPlan, folder: Path, requests: list[tuple[bytes, str]], outcome: Outcome, begin: Progress
) -> None:
    for start in _systems(plan):
        with start as running:
            _measure_system(plan, running, requests, outcome, begin)
    begin("no server")
    processes = plan.workers or count_processors()
    outcome.limits.append(measure_limit(folder, processes=processes, seconds=plan.seconds, batch=STOCK_BATCH))
    bare = measure_bare(folder)
    outcome.bare_mb += [bare] if bare else []


def _systems(plan: BenchPlan) -> Iterator[AbstractContextManager[Running]]:
    yield run_kit(plan.archive, plan.record, plan.port, workers=plan.workers)
    if plan.model and plan.stock:
        for workers in (1, 2):
            yield run_stock(plan.model, plan.port, workers=workers)
    if plan.model and plan.triton:
        for instances in (1, 2):
            yield run_triton(plan.model, plan.port, python=plan.triton, instances=instances)


def _begin(steps: Steps, where: str, what: str) -> None:
    steps.begin(where + what)


def _count_steps(plan: BenchPlan) -> int:
    peers = 2 * (plan.stock + bool(plan.triton)) if plan.model else 0
    return plan.rounds * ((1 + peers) * (len(plan.concurrencies) + 2) + 1)


def _warm_up(plan: BenchPlan, running: Running, requests: list[tuple[bytes, str]]) -> int:
    """Load a server until its rate and its JVM's processor time are steady, and return how many runs that took.

    A JVM compiles what it runs often: for the first 60,000 requests or so that takes more processor time than the
    requests do. Steady means that the last three runs are close together, as perf_analyzer's rule has it.
    """
    samples: list[Sample] = []
    most = max(plan.concurrencies)
    while len(samples) < plan.warm_up and not (
        is_steady([each.rate for each in samples]) and is_steady([each.server_ms for each in samples])
    ):
        samples.append(measure(running, plan.record, requests, seconds=plan.seconds, concurrency=most))
    return len(samples)


def is_steady(figures: Sequence[float]) -> bool:
    """Return whether the last three figures lie within ten per cent of one another."""
    last = figures[-3:]
    return len(last) == 3 and max(last) <= _STEADY * min(last)


def _measure_system(
    plan: BenchPlan, running: Running, requests: list[tuple[bytes, str]], outcome: Outcome, begin: Progress
) -> None:
    outcome.start_seconds.setdefault(running.name, []).append(running.seconds)
    begin(f"{running.name}, warm-up")
    outcome.warm_up_runs.setdefault(running.name, []).append(_warm_up(plan, running, requests))
    highest = 0.0
    for concurrency in plan.concurrencies:
        begin(f"{running.name}, {concurrency} at a time")
        sample = measure(
            running, plan.record, requests, seconds=plan.seconds, concurrency=concurrency, by_wrk=plan.by_wrk
        )
        outcome.samples.append(sample)
        highest = max(highest, sample.rate)
    begin(f"{running.name}, open loop")
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
    peaks = [read_peak_mb(each.pid) or math.nan for each in running.workers()]
    outcome.peak_mb.setdefault(running.name, []).append(max(peaks, default=math.nan))
