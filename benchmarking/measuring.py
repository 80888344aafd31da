"""One measurement of one server: load in a process of its own, and what it cost the machine meanwhile."""

import base64
import contextlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarking.figures import percentile
from benchmarking.load import LoadPlan, LoadResult, from_json
from benchmarking.systems import Running
from benchmarking.wrk import run_wrk
from handlers.artifact import Record
from handlers.comparing import find_difference
from serving.errors import ServerError

Decode = Callable[[bytes], bytes]  # from an answer's body to its JSON; raises ValueError
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_CHECK = 1.0  # seconds of the check that goes before wrk


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


@dataclass(frozen=True)
class Load:
    """What a load generator saw of one run."""

    answers: int  # of status 200
    seconds: float  # that they took
    latency_ms: Mapping[str, float]  # by percentile: "50", "99.9"
    errors: Mapping[str, int]  # what was no answer of status 200, by status or in words
    wrong: int  # of the answers, those that are not the golden one
    cpu_seconds: float  # of the generator, warm-up included
    share: float  # of the run that counts; the rest was warm-up
    right: float  # share of the answers that are the golden one


def measure(
    running: Running,
    record: Record,
    requests: list[tuple[bytes, str]],
    *,
    seconds: float,
    concurrency: int,
    rate: float = 0.0,
    by_wrk: bool = False,
) -> Sample:
    """Return the figures of one run; ``requests`` are the bodies and types of the record's golden requests."""
    from benchmarking.scraping import scrape, scrape_settled

    plan = LoadPlan(
        port=running.port,
        path=running.path,
        bodies=[body for body, _ in requests],
        content_types=[kind for _, kind in requests],
        seconds=seconds,
        concurrency=concurrency,
        rate=rate,
        headers=running.headers,
    )
    checked = check_first(plan, record, running.decode) if by_wrk else None
    workers = running.workers()
    logged = _count_log_bytes(running.logs)
    scraped = scrape_settled(running.port + 2) if checked else scrape(running.port + 2)
    spent = (_cpu([running.server]), _cpu(workers))
    load = drive_wrk(plan, checked) if checked else drive(plan, record, running.decode)
    server_cpu, worker_cpu = _cpu([running.server]) - spent[0], _cpu(workers) - spent[1]
    # Processor time and logs include the warm-up, as if its requests were like the others.
    each_answer = load.share / max(1, load.answers)
    stages, batch = scrape_settled(running.port + 2).since(scraped)
    return Sample(
        system=running.name,
        concurrency=concurrency,
        offered=rate,
        rate=load.answers * load.right / load.seconds if load.seconds else 0.0,
        latency_ms=load.latency_ms,
        errors=load.errors,
        wrong=load.wrong,
        server_ms=server_cpu * each_answer * 1e3,
        worker_ms=worker_cpu * each_answer * 1e3,
        generator_ms=load.cpu_seconds * each_answer * 1e3,
        memory_mb={"server": _memory([running.server]), "worker": _memory(workers)},
        log_bytes=(_count_log_bytes(running.logs) - logged) * each_answer * 1e3,
        stages_us=stages,
        batch=batch,
    )


def drive(plan: LoadPlan, record: Record, decode: Decode = bytes) -> Load:
    """Return what the benchmark's own generator saw, every answer compared with the golden one."""
    result = run_in_process(plan)
    errors = {status: count for status, count in result.statuses.items() if status != "200"}
    if result.unsent:
        errors["unsent"] = result.unsent
    checked = sum(sum(each.values()) for each in result.answers)
    # Of more distinct answers than are kept, those that were not kept are not taken for right.
    wrong = count_wrong(result.answers, record, decode) + len(result.latencies) - checked
    return Load(
        answers=len(result.latencies),
        seconds=result.seconds,
        latency_ms={f"{each:g}": percentile(result.latencies, each) * 1e3 for each in PERCENTILES},
        errors=errors,
        wrong=wrong,
        cpu_seconds=result.cpu_seconds,
        share=plan.seconds / (plan.seconds + plan.warm_up),
        right=1.0 - wrong / max(1, len(result.latencies)),
    )


def check_first(plan: LoadPlan, record: Record, decode: Decode = bytes) -> Load:
    """Return what the own generator saw in the second before wrk, which cannot compare answers; it is the warm-up."""
    return drive(replace(plan, seconds=_CHECK, warm_up=0.0), record, decode)


def drive_wrk(plan: LoadPlan, checked: Load) -> Load:
    """Return what wrk saw, and of the check before it: its wrong answers, their share, and its errors."""
    result = run_wrk(plan)
    latency = result.latency_ms if result.answers else dict.fromkeys(result.latency_ms, math.nan)  # only of refusals
    return Load(
        answers=result.answers,
        seconds=result.seconds,
        latency_ms=latency,
        errors={**result.errors, **{f"{name} (in the check)": count for name, count in checked.errors.items()}},
        wrong=checked.wrong,
        cpu_seconds=result.cpu_seconds,
        share=1.0,
        right=checked.right if checked.answers else 0.0,
    )


def run_in_process(plan: LoadPlan) -> LoadResult:
    """Return what the load generator measured in a process of its own; raise ``ServerError`` if it failed."""
    told = {**asdict(plan), "bodies": [base64.b64encode(body).decode() for body in plan.bodies]}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarking.load"], input=json.dumps(told), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServerError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    return from_json(json.loads(done.stdout))


def count_wrong(answers: list["Counter[bytes]"], record: Record, decode: Decode = bytes) -> int:
    """Return how many answers are not the golden ones within the tolerance of the record's first variant."""
    tolerance = max(variant.golden_tolerance for variant in record.variants)
    wrong = 0
    for golden, seen in zip(record.golden, answers, strict=True):
        for body, count in seen.items():
            wrong += count if not _is_right(golden.answer, body, tolerance, decode) else 0
    return wrong


def _is_right(expected: Any, body: bytes, tolerance: float, decode: Decode) -> bool:
    # Any: what JSON holds.
    try:
        return not find_difference(expected, json.loads(decode(body)), tolerance)
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
