"""One measurement of one server: load in a process of its own, and what it cost the machine meanwhile."""

import base64
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarking.figures import percentile
from benchmarking.load import LoadPlan, LoadResult, from_json
from benchmarking.systems import Running
from handlers.artifact import Record
from handlers.comparing import find_difference

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Sample:
    """What one run of load showed."""

    system: str
    concurrency: int
    offered: float  # requests a second of an open loop, 0 for a closed one
    rate: float  # right answers a second
    latency_ms: Mapping[str, float]  # by percentile: "50", "99.9"
    errors: Mapping[str, int]  # by status, or "no answer", "unsent"
    wrong: int  # answers of status 200 that are not the golden one
    server_ms: float  # of processor time for each answer: the JVM
    worker_ms: float  # the same: all workers
    generator_ms: float  # the same: the load generator
    memory_mb: Mapping[str, float]  # resident, after the run: "server", "worker" (the largest)
    log_bytes: float  # for each 1,000 answers
    stages_us: Mapping[str, float] = field(default_factory=dict)  # mean time of each stage of a batch, microseconds
    batch: float = 0.0  # mean number of requests in a batch; 0 where it is not known


def measure(
    running: Running,
    record: Record,
    requests: list[tuple[bytes, str]],
    *,
    seconds: float,
    concurrency: int,
    rate: float = 0.0,
) -> Sample:
    """Return the figures of one run; ``requests`` are the bodies and types of the record's golden requests."""
    from benchmarking.scraping import scrape

    workers = running.workers()
    plan = LoadPlan(
        port=running.port,
        path=running.path,
        bodies=[body for body, _ in requests],
        content_types=[kind for _, kind in requests],
        seconds=seconds,
        concurrency=concurrency,
        rate=rate,
    )
    logged, scraped = _count_log_bytes(running.logs), scrape(running.port + 2)
    spent = (_cpu([running.server]), _cpu(workers))
    result = run_in_process(plan)
    server_cpu, worker_cpu = _cpu([running.server]) - spent[0], _cpu(workers) - spent[1]
    answered = max(1, len(result.latencies))
    # Processor time and logs include the warm-up, as if its requests were like the others.
    share = plan.seconds / (plan.seconds + plan.warm_up)
    errors = {status: count for status, count in result.statuses.items() if status != "200"}
    if result.unsent:
        errors["unsent"] = result.unsent
    stages, batch = scrape(running.port + 2).since(scraped)
    return Sample(
        system=running.name,
        concurrency=concurrency,
        offered=rate,
        rate=len(result.latencies) / result.seconds if result.seconds else 0.0,
        latency_ms={f"{each:g}": percentile(result.latencies, each) * 1e3 for each in PERCENTILES},
        errors=errors,
        wrong=count_wrong(result.answers, record),
        server_ms=server_cpu * share / answered * 1e3,
        worker_ms=worker_cpu * share / answered * 1e3,
        generator_ms=result.cpu_seconds * share / answered * 1e3,
        memory_mb={"server": _memory([running.server]), "worker": _memory(workers)},
        log_bytes=(_count_log_bytes(running.logs) - logged) * share / answered * 1e3,
        stages_us=stages,
        batch=batch,
    )


def run_in_process(plan: LoadPlan) -> LoadResult:
    """Return what the load generator measured in a process of its own; raise ``RuntimeError`` if it failed."""
    told = {**asdict(plan), "bodies": [base64.b64encode(body).decode() for body in plan.bodies]}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarking.load"], input=json.dumps(told), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    return from_json(json.loads(done.stdout))


def count_wrong(answers: list["Counter[bytes]"], record: Record) -> int:
    """Return how many answers are not the golden ones within the tolerance of the record's first variant."""
    tolerance = max(variant.golden_tolerance for variant in record.variants)
    wrong = 0
    for golden, seen in zip(record.golden, answers, strict=True):
        for body, count in seen.items():
            wrong += count if not _is_right(golden.answer, body, tolerance) else 0
    return wrong


def _is_right(expected: Any, body: bytes, tolerance: float) -> bool:  # Any: what JSON holds
    try:
        return not find_difference(expected, json.loads(body), tolerance)
    except ValueError:
        return False


def _cpu(processes: list[psutil.Process]) -> float:
    """Return the processor seconds of processes, those of threads included."""
    spent = 0.0
    for each in processes:
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            spent += times.user + times.system
    return spent


def _memory(processes: list[psutil.Process]) -> float:
    """Return the resident megabytes of the largest process."""
    found = [0.0]
    for each in processes:
        with contextlib.suppress(psutil.Error):
            found.append(each.memory_info().rss / 1e6)
    return max(found)


def _count_log_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
