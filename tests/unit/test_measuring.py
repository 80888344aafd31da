"""One measurement of a server: wrong answers and refusals show up as such, and count for nothing."""

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarking.load import LoadPlan
from benchmarking.measuring import Sample, check_first, drive, drive_wrk, measure
from benchmarking.systems import Running
from handlers.artifact import Golden
from tests.answering import answering
from tests.forging import make_record

RIGHT = Golden("a.json", "golden/a.json", "application/json", {"red": 1.0})
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
generators = pytest.mark.parametrize("by_wrk", [False, pytest.param(True, marks=needs_wrk)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A server that echoes: a request's body is its answer."""
    with answering() as port:
        yield Running("kit", port, "/predictions/x", psutil.Process(os.getpid()), tmp_path, 0.0)


def run(server: Running, *bodies: bytes, by_wrk: bool) -> Sample:
    """Measure it for half a second, two requests at a time; all bodies are to be answered the same."""
    record = replace(make_record(), golden=(RIGHT,) * len(bodies))
    requests = [(body, "application/json") for body in bodies]
    return measure(server, record, requests, seconds=0.5, concurrency=2, by_wrk=by_wrk)


@generators
def test_right_answers_are_a_rate_with_latencies(server: Running, by_wrk: bool) -> None:
    """Both generators count answers and give the four percentiles in milliseconds, in order."""
    found = run(server, b'{"red": 1.0}', b'{"red": 0.999}', by_wrk=by_wrk)
    assert found.rate > 0
    assert (found.errors, found.wrong) == ({}, 0)
    latencies = [found.latency_ms[each] for each in ("50", "90", "99", "99.9")]
    assert latencies == sorted(latencies)
    assert 0.01 < latencies[0] < 5000, "milliseconds"


@generators
def test_wrong_answers_are_counted_and_their_share_is_known(server: Running, by_wrk: bool) -> None:
    """One of three answers is right, one is another class, and one is no JSON."""
    record = replace(make_record(), golden=(RIGHT,) * 3)
    bodies = [b'{"red": 1.0}', b'{"green": 1.0}', b"no JSON"]
    plan = LoadPlan(port=server.port, path="/x", bodies=bodies, content_types=[""] * 3, seconds=0.5, warm_up=0.0)
    found = drive_wrk(plan, check_first(plan, record)) if by_wrk else drive(plan, record)
    assert found.wrong > 1
    assert found.right == pytest.approx(1 / 3, abs=0.1)


@generators
def test_a_server_whose_answers_are_all_wrong_has_no_rate(server: Running, by_wrk: bool) -> None:
    """However quick it is."""
    found = run(server, b'{"green": 1.0}', by_wrk=by_wrk)
    assert found.wrong > 1
    assert found.rate == 0


@generators
def test_refusals_are_errors_and_no_answers(server: Running, by_wrk: bool) -> None:
    """A server that refuses everything is not quick."""
    found = run(server, b"bad", by_wrk=by_wrk)
    assert sum(found.errors.values()) > 10
    assert found.rate == 0
    assert math.isnan(found.latency_ms["50"])


@generators
def test_requests_without_an_answer_are_errors(server: Running, by_wrk: bool) -> None:
    """A server that hangs up has not answered."""
    found = run(server, b"hang up", by_wrk=by_wrk)
    assert sum(found.errors.values()) > 1
    assert found.rate == 0
