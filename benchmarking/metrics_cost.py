"""Measure what the metrics cost a worker: ``Service.handle`` with and without them, in one run, interleaved.

    python -m benchmarking.metrics_cost

The model is ``tiny``, the smallest there is, so that the cost shows; the metrics are the same for every model. "With"
is a worker as TorchServe has it, which counts and reports once a second to another process. "Without" has in place of
each call that the worker makes for its metrics one that does nothing.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cli.building import ensure_archive
from handlers.metrics import HANDLE, READ, STAGES, Laps, Metrics
from handlers.reporting import Reporter
from handlers.service import Service
from tracing.clean_run import StandInContext

RECIPES = Path(__file__).resolve().parent.parent / "tracing" / "recipes"
TURN = 10  # batches in a row


class NoLaps(Laps):
    """Reads no clock."""

    def restart(self) -> None:
        self.seconds = [0.0] * len(STAGES)

    def end(self, stage: int) -> float:
        return 0.0


class NoMetrics(Metrics):
    """Counts nothing."""

    def count_batch(self, statuses: Any, seconds: Any) -> None:
        pass


class NoReporter(Reporter):
    """Sends nothing."""

    def touch(self) -> None:
        pass


@dataclass
class Sent:
    """What was sent to the process that stands for TorchServe."""

    stream: Any  # the process's standard input
    reports: list[list[str]] = field(default_factory=list)

    def send(self, lines: list[str]) -> None:
        """Write a report as a worker does."""
        self.stream.write("".join(lines))
        self.stream.flush()
        self.reports.append(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="requests in a batch")
    parser.add_argument("--rounds", type=int, default=500, help=f"turns of {TURN} batches that each has")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with start_service() as (service, sent):
        for batch in arguments.batches:
            compare(service, batch, arguments.rounds)
        report_counting(service)
        report_sending(service, sent)


@contextmanager
def start_service() -> Iterator[tuple[Service, Sent]]:
    """Give a worker of ``tiny`` that reports to another process."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = ensure_archive("tiny", store=folder / "store", build=folder / "build")
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder / "tiny")
        service = Service(folder / "tiny")
        service.initialize()
        sent = Sent(reader.stdin)
        service.reporter.start({"model_name": "tiny", "model_version": "1.0"}, sent.send)
        yield service, sent
    reader.terminate()
    reader.wait()


def compare(service: Service, batch: int, rounds: int) -> None:
    """Time both in turn, and print microseconds of processor time for each batch and request, and the ratio.

    Processor time of the whole process, reports included: other work on the machine does not count.
    """
    assert service.worker is not None, service.fault
    # Any: clean_run.py runs on any Python, without types.
    manifest = {"model": {"modelName": "tiny"}}
    context: Any = StandInContext(str(service.folder), manifest, batch)
    row = {"body": bytearray((RECIPES / "tiny_red.png").read_bytes())}
    real = (service.metrics, service.reporter, service.laps)
    none = (NoMetrics(), NoReporter(real[0]), NoLaps())
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * rounds):
        metered = number % 4 in (0, 3)  # each is as often first as second
        service.metrics, service.reporter, service.laps = real if metered else none
        service.worker.laps = service.laps
        began = time.process_time()
        for _ in range(TURN):
            context.begin([{}] * batch)
            service.handle([row] * batch, context)
        times[metered].append((time.process_time() - began) / TURN * 1e6)
    service.metrics, service.reporter, service.laps = real
    service.worker.laps = service.laps
    with_, without = (statistics.median(times[each]) for each in (True, False))
    cost = statistics.median(one - other for one, other in zip(times[True], times[False], strict=True))
    print(f"batches of {batch}: {with_:.1f} us with metrics, {without:.1f} us without, ratio {with_ / without:.3f}")
    print(f"  cost: {cost:.1f} us for each batch, {cost / batch:.1f} us for each request (median of {rounds} pairs)")


def report_counting(service: Service, batches: int = 20_000) -> None:
    """Time only the calls that a worker makes for its metrics in a batch of one, and print it."""
    metrics, laps, reporter = service.metrics, service.laps, service.reporter
    began = time.thread_time()
    for _ in range(batches):
        laps.restart()
        for stage in range(READ, HANDLE):
            laps.end(stage)
        laps.end(READ)  # a run of the model ends three stages, the batch that holds it two of them again
        laps.end(READ)
        laps.seconds[HANDLE] = 0.001
        metrics.count_batch([200], laps.seconds)
        reporter.touch()
    print(f"the calls alone: {(time.thread_time() - began) / batches * 1e6:.1f} us of processor time for each batch")


def report_sending(service: Service, sent: Sent, reports: int = 50) -> None:
    """Time reports in which every stage has changed, and print their size; there is at most one in a second."""
    seconds = []
    for _ in range(reports):
        service.metrics.count_batch([200], [0.0002] * len(STAGES))
        began = time.thread_time()
        service.reporter.report()
        seconds.append(time.thread_time() - began)
    lines = sent.reports[-1]
    print(f"a report: {statistics.median(seconds) * 1e3:.2f} ms of processor time, at most one in a second")
    print(f"  {len(lines)} lines, {sum(map(len, lines))} bytes; the first one {len(sent.reports[0])} lines")


if __name__ == "__main__":
    main()
