"""What a worker counts: every batch once, each stage for itself, and the state that it is in."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers import artifact
from handlers.cores import Lease
from handlers.errors import CannotServe, GoldenMismatch
from handlers.metrics import (
    BATCH_BOUNDS,
    MODEL,
    POSTPROCESS,
    PREPROCESS,
    STAGES,
    TIME_BOUNDS,
    Histogram,
    Metrics,
    make_place,
)
from handlers.service import Service
from handlers.worker import Bucket, Worker
from tests.fakes import Echo, make_context, make_picture, run_model
from tests.forging import make_record, reseal

SPEC = artifact.TensorSpec("x", "float32", (1, 1))


@pytest.fixture
def echo(tmp_path: Path) -> Service:
    """A service that answers numbers, in modules of one and four."""
    record = make_record(golden=())
    handler = Echo({}, [[SPEC]])
    handler.preprocess = lambda item: Echo.preprocess(handler, int(item))
    service = Service(tmp_path)
    bucket = Bucket((SPEC,), dict.fromkeys((1, 4), run_model))
    service.take(Worker(record, record.variants[0], handler, [bucket], Lease((), 0, []), []))
    return service


def ask(service: Service, *numbers: int, headers: list[dict[str, Any]] | None = None) -> None:
    """Have the service answer a batch of numbers."""
    context = make_context(service.folder, headers or [{}] * len(numbers))
    service.handle([{"body": str(each).encode()} for each in numbers], context)


def read(metrics: Metrics) -> dict[str, float]:
    """Return the counters by their name and labels' values."""
    return {".".join([each.name, *(value for _, value in each.labels)]): each.value for each in metrics.counters()}


@pytest.mark.parametrize(
    ("values", "buckets"),
    [
        ([], [0, 0, 0]),
        ([0.5, 1.0], [2, 2, 2]),
        ([1.5], [0, 1, 1]),
        ([2.0, 2.1, 9.0], [0, 1, 3]),
    ],
)
def test_buckets_are_cumulative_and_hold_their_bound(values: list[float], buckets: list[int]) -> None:
    """As Prometheus reads ``le``; the largest is the count."""
    histogram = Histogram((1.0, 2.0))
    for value in values:
        histogram.observe(value)
    series = {dict(each.labels).get("le", each.name): each.value for each in histogram.series("h", "Seconds", ())}
    assert [series["1"], series["2"], series["+Inf"]] == buckets
    assert (series["h_count"], series["h_sum"]) == (len(values), pytest.approx(sum(values)))


def test_a_model_has_few_series() -> None:
    """137 counters for a model of however many workers, and no label that a client can choose."""
    series = list(Metrics().counters())
    assert len(series) == 6 * (len(TIME_BOUNDS) + 3) + len(BATCH_BOUNDS) + 3 + 4 + 8 == 137
    assert {name for each in series for name, _ in each.labels} == {"stage", "le", "status"}
    assert len({(each.name, each.labels) for each in series}) == len(series)


def test_the_bounds_resolve_a_tenth_of_a_millisecond_to_a_minute() -> None:
    """Rising, from 0.1 ms to 60 s."""
    assert (TIME_BOUNDS[0], TIME_BOUNDS[-1]) == (0.0001, 60.0)
    assert list(TIME_BOUNDS) == sorted(set(TIME_BOUNDS))


def test_each_answer_is_counted_by_its_status(echo: Service) -> None:
    """Refusals and faults of the model, beside right answers."""
    ask(echo, 1, 101, 99, 2)
    ask(echo, 3)
    counts = read(echo.metrics)
    assert (counts["tsn_answers.200"], counts["tsn_answers.400"], counts["tsn_answers.500"]) == (3, 1, 1)
    assert (counts["tsn_batch_requests_count"], counts["tsn_batch_requests_sum"]) == (2, 5)


def test_fill_and_padding_are_counted(echo: Service) -> None:
    """Five items run as four of four, and one of one; three as three of four."""
    ask(echo, 1, 2, 3, 4, 5)
    ask(echo, 1, 2, 3)
    counts = read(echo.metrics)
    assert (counts["tsn_batch_fill_count"], counts["tsn_batch_fill_sum"]) == (3, 2.75)
    assert (counts["tsn_computed_values"], counts["tsn_padded_values"]) == (9, 1)


def slow_down(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a pause of 30 ms before it."""

    def slow(*arguments: Any) -> Any:
        time.sleep(0.03)
        return function(*arguments)

    return slow


@pytest.mark.parametrize("stage", [PREPROCESS, MODEL, POSTPROCESS], ids=lambda stage: STAGES[stage])
def test_a_slow_stage_is_told_from_the_others(echo: Service, stage: int) -> None:
    """Its time is in its own histogram and in that of the whole batch, and in no other."""
    assert echo.worker is not None
    handler, runs = echo.worker.handler, echo.worker.buckets[0].runs
    if stage == MODEL:
        runs[1] = slow_down(runs[1])
    else:
        name = "preprocess" if stage == PREPROCESS else "postprocess"
        setattr(handler, name, slow_down(getattr(handler, name)))
    ask(echo, 1)
    totals = dict(zip(STAGES, (each.total for each in echo.metrics.stages), strict=True))
    assert [name for name, seconds in totals.items() if seconds > 0.03] == [STAGES[stage], "handle"]
    assert sum(totals.values()) - totals["handle"] <= totals["handle"]


def test_a_stage_that_no_request_reached_is_not_counted(echo: Service) -> None:
    """A batch that is refused as a whole has no time of the model."""
    ask(echo, 101)
    counts = read(echo.metrics)
    assert [counts[f"tsn_stage_seconds_count.{stage}"] for stage in STAGES] == [1, 1, 0, 1, 1]


def test_questions_for_the_state_are_not_counted(echo: Service) -> None:
    """A health check is no traffic, alone or in a batch."""
    ask(echo, 1, headers=[{"describe": "True"}])
    assert not any(read(echo.metrics).values())
    ask(echo, 1, 2, headers=[{"describe": "True"}, {}])
    assert read(echo.metrics)["tsn_batch_requests_sum"] == read(echo.metrics)["tsn_answers.200"] == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("t=1000.250", [0.75]),
        ("t=1001.5", [0.0]),  # a clock slightly ahead
        ("t=1010", []),
        ("t=-3000", []),
        ("1000.250", []),
        ("t=nan", []),
        ("t=-inf", []),
        ("t=1e400", []),
        ("", []),
        ("t=" + "9" * 5000, []),
        ({"content-type": "x"}, []),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_wait_before_the_worker_is_read_from_the_header(header: Any, expected: list[float]) -> None:
    """In whole seconds since 1970 with a fraction; what is none is ignored."""
    metrics = Metrics()
    metrics.count_wait(header, now=1001.0)
    assert [sum(metrics.waits.counts), metrics.waits.total] == [len(expected), sum(expected)]


def test_the_wait_of_each_request_is_counted(echo: Service) -> None:
    """Of those that have the header, in any spelling."""
    ask(echo, 1, 2, 3, headers=[{"X-Request-Start": f"t={time.time() - 5:.3f}"}, {}, {"x-request-start": "t=0"}])
    assert read(echo.metrics)["tsn_wait_seconds_count"] == 1
    assert 4.99 < echo.metrics.waits.total < 15  # the header was rounded


def test_a_start_counts_no_traffic_and_tells_its_times(tiny_folder: Path) -> None:
    """Golden requests run before the first client's; ready, golden check and each step are told, on its core."""
    service = Service(tiny_folder)
    service.initialize()
    assert service.worker is not None
    service.worker.lease.release()
    assert not any(read(service.metrics).values())
    ready, *others = service.metrics.states()
    assert (ready.name, ready.value) == ("tsn_worker_ready", 1)
    assert dict(ready.labels) == {"core": str(service.worker.lease.cores[0]), "target": "cpu", "emulated": "false"}
    steps = {dict(each.labels)["step"]: each.value for each in others if each.name == "tsn_start_seconds"}
    assert steps == service.worker.seconds
    assert [each.value for each in others if each.name == "tsn_golden_check"] == [1]


def test_an_explanation_is_in_the_time_of_the_batch_only(tiny_folder: Path) -> None:
    """A thousand runs of the model are not the time that a prediction takes."""
    service = Service(tiny_folder)
    service.initialize()
    assert service.worker is not None
    (answer,) = service.handle([{"body": make_picture()}], make_context(tiny_folder, [{"explain": "True"}]))
    service.worker.lease.release()
    assert json.loads(answer)["target"] == "red"
    counts = read(service.metrics)
    assert [counts[f"tsn_stage_seconds_count.{stage}"] for stage in STAGES] == [1, 0, 0, 0, 1]
    assert counts["tsn_answers.200"] == 1


def test_a_wrong_golden_answer_is_told(tiny_folder: Path) -> None:
    """Not ready, and the check has failed; the requests that it refuses are counted."""
    reseal(tiny_folder, lambda record: record["golden"][0].update(answer={"green": 1.0}))
    service = Service(tiny_folder)
    service.initialize()
    assert [(each.name, each.value) for each in service.metrics.states()] == [
        ("tsn_worker_ready", 0),
        ("tsn_golden_check", 0),
    ]
    service.handle([{"body": b"1"}], make_context(tiny_folder))
    assert read(service.metrics)["tsn_answers.503"] == 1


def test_a_fault_that_has_gone_is_taken_back() -> None:
    """Nothing else removes a series from TorchServe, so the one without a core is set to 1."""
    metrics = Metrics()
    metrics.set_fault(CannotServe("no core"))
    metrics.set_fault(GoldenMismatch("once"))
    assert {each.value for each in metrics.states()} == {0}
    metrics.set_serving(make_place((4, 5), "inf2", True), seconds={}, golden=False)
    ready = [each for each in metrics.states() if each.name != "tsn_start_seconds"]
    assert {each.value for each in ready} == {1}
    assert {dict(each.labels)["core"] for each in ready} == {"none", "4"}
