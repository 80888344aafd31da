"""No server at all, the limit that a server is compared with: an archive's own code on each core, called in a loop.

    python -m benchmarking.limit FOLDER --seconds 5 --batch 8

What is measured, exactly: as many processes as the kit's server has workers (one for each processor). Each takes the
unpacked archive in FOLDER through the start of a worker (core leased and bound to, modules warmed up, golden requests
checked) and then calls ``Service.handle``, one call after another, with a full batch of golden requests. Their bodies
lie in memory as bytes; reading them, decoding pictures, preprocessing, collating, the model, postprocessing and
encoding answers as JSON bytes are all in. Left out are: HTTP, TCP, the JVM, the queue and the wait for a batch to fill,
the socket between TorchServe and its worker and the reading of what comes over it. No load generator runs meanwhile:
a server shares its cores with one, the limit has them alone, so that a server can hardly reach it.

One such process prints a line of JSON when it is ready, begins at a line on standard input, and prints its figures.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from handlers.service import Service
from serving.errors import ServerError
from tracing.clean_run import StandInContext

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Limit:
    """What the cores do when nobody stands between them and the requests."""

    rate: float  # requests a second, all cores together, in full batches
    alone_seconds: float  # median time of a batch of one request, from its body to its encoded answer
    model_seconds: float  # of a request in a full batch: the compiled module alone, one core
    processes: int = 1  # that ran at the same time; each was busy throughout


def measure_limit(folder: Path, *, processes: int, seconds: float, batch: int) -> Limit:
    """Return the limit of the archive unpacked in ``folder``; raise ``ServerError`` if a process fails."""
    command = [
        sys.executable,
        "-m",
        "benchmarking.limit",
        str(folder.resolve()),
        "--seconds",
        str(seconds),
        "--batch",
        str(batch),
    ]
    # From the archive's folder its own handlers are imported, not those of the kit, as in a worker.
    environment = {**os.environ, "PYTHONPATH": f"{folder.resolve()}{os.pathsep}{_ROOT}"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}  # Any: Popen's own
    running: list[subprocess.Popen[str]] = []
    try:
        for _ in range(processes):
            running.append(subprocess.Popen(command, cwd=folder, env=environment, **pipes))
        for each in running:
            _read_line(each)
        for each in running:
            print(file=each.stdin, flush=True)
        figures = [_read_line(each) for each in running]
    finally:
        for each in running:
            each.kill()
            each.communicate()
    return Limit(
        rate=sum(each["requests"] / each["seconds"] for each in figures),
        alone_seconds=median(each["alone_seconds"] for each in figures),
        model_seconds=median(each["model_seconds"] for each in figures),
        processes=processes,
    )


def _read_line(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ServerError(f"a process of the limit ended with status {process.wait()}; its words are above")
    found: dict[str, Any] = json.loads(line)
    return found


def _run(service: Service, rows: Sequence[dict[str, Any]], headers: Sequence[dict[str, Any]], folder: Path) -> None:
    context = StandInContext(str(folder), {"model": {"modelName": "limit"}}, len(rows))
    context.begin(list(headers))
    service.handle(list(rows), context)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    service = Service(options.folder)
    service.initialize()
    if service.worker is None:
        print(f"error: {service.fault}", file=sys.stderr)
        return 1
    golden = service.worker.record.golden
    rows = [{"body": (options.folder / each.file).read_bytes()} for each in golden]
    headers = [{"content-type": each.content_type} for each in golden]
    picked = [index % len(rows) for index in range(options.batch)]
    full, full_headers = [rows[each] for each in picked], [headers[each] for each in picked]
    print(json.dumps({"ready": True}), flush=True)
    if not sys.stdin.readline():
        return 1  # who asked has gone
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < options.seconds:
        _run(service, full, full_headers, options.folder)
        batches += 1
    took = time.perf_counter() - began
    figures = {
        "requests": batches * options.batch,
        "seconds": took,
        "alone_seconds": median(
            _time(lambda: _run(service, rows[:1], headers[:1], options.folder)) for _ in range(200)
        ),
        "model_seconds": _time_model(service, options.batch) / options.batch,
    }
    print(json.dumps(figures), flush=True)
    return 0


def _time_model(service: Service, batch: int) -> float:
    """Return the median seconds of the compiled module that holds ``batch`` items, alone."""
    import torch

    assert service.worker is not None
    bucket = service.worker.buckets[0]
    size = min((each for each in bucket.runs if each >= batch), default=max(bucket.runs))
    specs = [(size, *spec.shape[1:]) for spec in bucket.inputs]
    inputs = [
        torch.zeros(shape, dtype=getattr(torch, spec.dtype)) for shape, spec in zip(specs, bucket.inputs, strict=True)
    ]
    return median(_time(lambda: bucket.runs[size](*inputs)) for _ in range(50)) * batch / size


def _time(function: Any) -> float:  # Any: a function without arguments, whatever it returns
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(_main())
