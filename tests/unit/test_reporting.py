"""What a worker tells TorchServe of its metrics: whole lines that it can parse, when there is something to tell."""

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handlers.metrics import STAGES, Metrics, make_place
from handlers.reporting import Reporter, clean_label, read_names, write_lines
from tests.fakes import make_context
from tests.servers import wait_for

NAMES = {"model_name": "tiny", "model_version": "1.0"}
BATCH = ([200, 400], [0.001] * len(STAGES))


@pytest.fixture
def sent() -> list[list[str]]:
    """The lines of each report so far."""
    return []


@pytest.fixture
def reporter(sent: list[list[str]]) -> Reporter:
    """A reporter to ``sent``, every 20 ms at most, that has sent its first two reports."""
    metrics = Metrics()
    metrics.set_serving(make_place((3,), "inf1"), seconds={"load": 0.5}, golden=True)
    started = Reporter(metrics, pause=0.02)
    started.start(NAMES, sent.append)
    wait_for(lambda: len(sent) == 2, "two reports", seconds=10)
    return started


def parse(line: str) -> tuple[str, float, dict[str, str], str]:
    """Return name, value, labels and type of a line, taken apart at TorchServe's separators."""
    assert line.startswith("[METRICS]") and line.endswith("\n") and line.count("\n") == 1
    value, labels, kind, host = line[len("[METRICS]") :].rstrip("\n").split("|#")
    (name, _, unit), number = value.partition(":")[0].partition("."), value.partition(":")[2]
    assert (name + unit).replace("_", "").isalnum() and not set(number) - set("0123456789.")
    assert host.startswith("hostname:") and host.count(",") == 1
    pairs = [pair.split(":") for pair in labels.split(",")]
    assert all(len(pair) == 2 and all(pair) for pair in pairs)
    return name, float(number), dict(pairs), kind.partition(":")[2]


def test_every_series_is_there_before_the_first_request(reporter: Reporter, sent: list[list[str]]) -> None:
    """With zeros, twice, because TorchServe loses lines when two workers introduce a name at the same moment."""
    for report in sent:
        counters = [parse(line) for line in report if parse(line)[3] == "COUNTER"]
        assert len(counters) == len(list(reporter.metrics.counters()))
        assert {value for _, value, _, _ in counters} == {0.0}


def test_labels_come_in_one_order_for_each_name(reporter: Reporter, sent: list[list[str]]) -> None:
    """TorchServe takes the values of all later lines by the position of the names in the first."""
    orders: dict[str, set[tuple[str, ...]]] = {}
    for name, _, labels, _ in map(parse, sent[0]):
        orders.setdefault(name, set()).add(tuple(labels))
        assert list(labels)[:2] == ["model_name", "model_version"] and list(labels)[-1] == "Level"
    assert all(len(found) == 1 for found in orders.values())


def test_increments_add_up(reporter: Reporter, sent: list[list[str]]) -> None:
    """What TorchServe has summed in the end is what the worker has counted."""
    for count in range(3):
        reporter.metrics.count_batch(*BATCH)
        reporter.touch()
        wait_for(lambda wanted=count + 3: len(sent) == wanted, "another report", seconds=10)
    sums: dict[tuple[str, ...], float] = {}
    for name, value, labels, kind in (parse(line) for report in sent for line in report):
        if kind == "COUNTER":
            key = (name, *[each for label, each in labels.items() if label in ("stage", "le", "status")])
            sums[key] = sums.get(key, 0) + value
    expected = {(each.name, *(value for _, value in each.labels)): each.value for each in reporter.metrics.counters()}
    assert sums == pytest.approx(expected, abs=1e-8)


def test_a_report_holds_states_first_and_what_has_changed(reporter: Reporter, sent: list[list[str]]) -> None:
    """The line that half a line of something else would spoil is one that comes with every report."""
    reporter.metrics.count_batch([200], [0.0] * len(STAGES))
    reporter.report()
    lines = [parse(line) for line in sent[-1]]
    assert (lines[0][0], lines[0][1], lines[0][3]) == ("tsn_worker_ready", 1, "GAUGE")
    counted = {name for name, _, _, kind in lines if kind == "COUNTER"}
    assert counted == {"tsn_batch_requests_count", "tsn_batch_requests_sum", "tsn_batch_requests_bucket", "tsn_answers"}


def test_nothing_is_sent_while_nothing_happens(reporter: Reporter, sent: list[list[str]]) -> None:
    """After the last report the thread sleeps until a batch comes."""
    time.sleep(0.2)
    assert len(sent) == 2


def test_many_batches_make_few_reports(reporter: Reporter, sent: list[list[str]]) -> None:
    """One for each pause, and one after the last batch without anybody's help."""
    began = time.monotonic()
    for _ in range(100):
        reporter.metrics.count_batch(*BATCH)
        reporter.touch()
        time.sleep(0.001)
    wait_for(lambda: not reporter._due.is_set(), "the last report", seconds=10)
    time.sleep(0.05)
    assert 1 <= len(sent) - 2 <= (time.monotonic() - began) / reporter.pause
    total = sum(
        value for report in sent for name, value, _, _ in map(parse, report) if name == "tsn_batch_requests_count"
    )
    assert total == 100


def test_a_failing_report_is_told_and_the_next_one_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """No answer is to fail over a metric."""
    sent: list[list[str]] = []

    def send(lines: list[str]) -> None:
        sent.append(lines)
        if len(sent) == 1:
            raise BrokenPipeError("nobody reads")

    reporter = Reporter(Metrics(), pause=0.01)
    reporter.start(NAMES, send)
    wait_for(lambda: len(sent) == 2, "another report", seconds=10)
    assert "metrics are not reported (BrokenPipeError: nobody reads)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "expected"),
    [("cifar10", "cifar10"), ("1.0+a/b-c", "1.0+a/b-c"), ("a,b:c|d#e f", "a_b_c_d_e_f"), ("", "none"), ("ü\n", "__")],
)
def test_labels_hold_nothing_that_torchserve_splits_at(value: str, expected: str) -> None:
    """A line with another comma or an empty value would be dropped, or its labels shifted."""
    assert clean_label(value) == expected


def test_large_numbers_have_no_exponent() -> None:
    """TorchServe's parser knows no plus sign."""
    reporter = Reporter(Metrics())
    reporter.metrics.waste.computed = 10**19
    reporter.metrics.stages[0].total = 1e17
    sent: list[list[str]] = []
    reporter.start(NAMES, sent.append)
    assert {1e19, 1e17} <= {value for _, value, _, _ in map(parse, sent[0])}


def test_the_names_are_those_of_torchserve() -> None:
    """The model as it was registered, the version of the manifest; nothing where nobody listens."""
    context: Any = make_context("folder")  # type: ignore[arg-type]
    assert read_names(context) is None
    context.metrics = object()
    context.model_name, context.manifest = "mine", {"model": {"modelName": "tiny", "modelVersion": "2.0"}}
    assert read_names(context) == {"model_name": "mine", "model_version": "2.0"}


@contextmanager
def piped_output() -> Iterator[int]:
    """Make standard output a pipe with a buffer, as a worker has it, and give its other end."""
    source, target = os.pipe()
    kept, sys.stdout = sys.stdout, io.TextIOWrapper(io.BufferedWriter(io.FileIO(target, "w")))
    try:
        yield source
    finally:
        sys.stdout, piped = kept, sys.stdout
        piped.close()


def test_lines_of_other_threads_come_between_reports_only() -> None:
    """Reports larger than a pipe's atomic writes stay whole while a handler prints."""
    report = [f"[METRICS]{number:04}{'x' * 150}\n" for number in range(100)]
    received: list[bytes] = []
    with piped_output() as source:

        def drain() -> None:
            while chunk := os.read(source, 65536):
                received.append(chunk)

        reader = threading.Thread(target=drain)
        reader.start()
        writers = [threading.Thread(target=lambda: [write_lines(report) for _ in range(50)]) for _ in range(2)]
        writers.append(threading.Thread(target=lambda: [sys.stdout.write("a handler's line\n") for _ in range(5000)]))
        for each in writers:
            each.start()
        for each in writers:
            each.join()
    reader.join()
    os.close(source)
    lines = b"".join(received).decode().splitlines(keepends=True)
    assert set(lines) == {*report, "a handler's line\n"}
    assert (len(lines), lines.count(report[0])) == (15000, 100)
