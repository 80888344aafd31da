"""The load generator: every answer is counted once, and an open loop charges a stalled server for those that waited."""

import time
from collections.abc import Iterator

import pytest

from benchmarking.load import LoadPlan, from_json, run_load, to_json
from tests.answering import Server, answering


@pytest.fixture
def port() -> Iterator[int]:
    """A server that is there for one test."""
    with answering() as found:
        yield found


def plan(port: int, *bodies: bytes, **more: object) -> LoadPlan:
    """Return a short run."""
    told = {"seconds": 0.3, "warm_up": 0.0, "concurrency": 2, **more}
    return LoadPlan(port=port, path="/x", bodies=bodies, content_types=["text/plain"] * len(bodies), **told)


def test_each_answer_is_counted_under_its_request(port: int) -> None:
    """Bodies are sent in turn; each answer stands with the request that it answers."""
    result = run_load(plan(port, b"one", b"two"))
    assert [set(each) for each in result.answers] == [{b"one"}, {b"two"}]
    assert sum(sum(each.values()) for each in result.answers) == len(result.latencies) == result.statuses["200"]


def test_refusals_are_counted_and_the_connection_is_opened_again(port: int) -> None:
    """A server that closes after a 400, as TorchServe does, is asked again."""
    result = run_load(plan(port, b"bad", b"good"))
    assert result.statuses["400"] > 1
    assert result.statuses["200"] > 1
    assert set(result.answers[0]) == set()


def test_a_request_without_an_answer_is_no_success(port: int) -> None:
    """A connection that the server closes instead of answering counts as no answer."""
    result = run_load(plan(port, b"hang up", b"good"))
    assert result.statuses["no answer"] > 0
    assert set(result.answers[0]) == set()


def test_an_open_loop_measures_from_the_time_a_request_was_due(port: int) -> None:
    """While the server stalls for half a second requests keep coming, and each of them is charged its wait."""
    Server.stall_until = time.monotonic() + 0.5
    result = run_load(plan(port, b"one", seconds=0.8, concurrency=1, rate=100.0))
    slow = [each for each in result.latencies if each > 0.1]
    assert len(slow) > 20, f"{len(slow)} of {len(result.latencies)}"
    assert max(result.latencies) > 0.4


def test_an_open_loop_sends_at_its_rate(port: int) -> None:
    """So many requests a second as asked for, whatever the server could do."""
    result = run_load(plan(port, b"one", seconds=2.0, concurrency=8, rate=100.0, seed=1))
    assert 150 < sum(result.statuses.values()) < 250


def test_a_result_survives_its_way_between_processes(port: int) -> None:
    """What one process writes another reads."""
    result = run_load(plan(port, b"\xff\x00"))
    assert from_json(to_json(result)) == result
