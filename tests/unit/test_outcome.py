"""What follows from a benchmark's samples: what a server adds, batches against load, and what went wrong."""

import math
from typing import Any

import pytest

from benchmarking.bench import is_steady
from benchmarking.limit import Limit
from benchmarking.measuring import Sample
from benchmarking.outcome import Outcome
from benchmarking.page import to_page
from benchmarking.report import to_json, to_markdown

BATCHES = {1: 1.0, 4: 2.5, 16: 7.0}


def make(system: str, concurrency: int, **more: Any) -> Sample:
    """Return a run's figures: 0.5 ms of processor time for each answer, all of them right."""
    latency = dict.fromkeys(("50", "90", "99", "99.9"), 2.0)
    told = {"offered": 0.0, "rate": 100.0, "latency_ms": latency, "errors": {}, "wrong": 0, "server_ms": 0.2}
    told |= {"worker_ms": 0.3, "generator_ms": 0.1, "memory_mb": {"server": 1.0, "worker": 2.0}, "log_bytes": 0.0}
    told |= {"batch": BATCHES.get(concurrency, 8.0)}
    return Sample(system=system, concurrency=concurrency, **{**told, **more})


@pytest.fixture
def outcome() -> Outcome:
    """One round: the kit beside one stock server, and a limit of two processes."""
    found = Outcome("tiny", "1.0", "cpu", False, "two processors", "2026-11-21", None, batch_size=8, rounds=1)
    found.samples = [make(system, each) for system in ("kit", "stock, 1 worker(s)") for each in BATCHES]
    found.limits = [Limit(4000.0, 0.0005, 0.0001, processes=2)]
    found.peak_mb, found.bare_mb = {"kit": [330.0]}, [300.0]
    return found


def test_what_serving_adds_is_processor_time_latency_and_memory(outcome: Outcome) -> None:
    """0.5 ms less 0.1 of the model; 2 ms less 0.5 alone; 330 MB over 300."""
    assert outcome.extra_processor_ms(16).value == pytest.approx(0.4)
    assert outcome.extra_latency_ms().value == pytest.approx(1.5)
    assert outcome.memory_share().value == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        # Two processes, 4,000 requests a second: half a millisecond of processor time for each.
        ("processor time beyond the model over all of it without a server, 16 at a time", 0.8, "processor"),
        ("p50 over the time without a server, 1 at a time", 4.0, "latency"),
        ("peak memory of a worker over torch and the model alone", 1.1, "memory"),
        ("rate over no server at all, 16 at a time", 0.025, "rate"),
    ],
)
def test_the_gate_gets_them_without_units(outcome: Outcome, name: str, value: float, kind: str) -> None:
    """So that a quicker machine does not change them."""
    assert outcome.ratios()[name].value == pytest.approx(value)
    assert outcome.ratios()[name].kind == kind


def test_one_round_has_no_interval(outcome: Outcome) -> None:
    """The report says so instead of printing one number twice."""
    assert "| peak memory of a worker over torch and the model alone | 1.1 | none: one round |" in to_markdown(outcome)
    assert outcome.memory_share().runs == 1


def test_batches_are_shown_against_load(outcome: Outcome) -> None:
    """In a table, and as a plot with a point for each load."""
    assert "| 16 | 100 | 2 | 7 | 88% |" in to_markdown(outcome)
    plot = to_page(outcome).split("Batch fill against load")[1].split("</svg>")[0]
    assert plot.count("<circle") == len(BATCHES)


def test_a_server_that_does_not_tell_its_batches_has_no_such_plot(outcome: Outcome) -> None:
    """Rather than a line at zero."""
    outcome.samples = [make("kit", 16, batch=0.0)]
    assert "Batch fill" not in to_page(outcome)


def test_the_report_names_the_generator(outcome: Outcome) -> None:
    """And who drove the open loop, where that was another."""
    assert "Load generator: benchmarking/load.py." in to_markdown(outcome)
    outcome.generator = "wrk 4.1.0"
    assert "Load generator: wrk 4.1.0; of open loops and of the check of answers" in to_markdown(outcome)


def test_wrong_answers_and_refusals_head_the_report(outcome: Outcome) -> None:
    """By system and load, before any ratio."""
    outcome.samples += [make("stock, 1 worker(s)", 64, wrong=3, errors={"503": 7, "no answer": 2}), make("kit", 64)]
    assert outcome.faults() == {
        "stock, 1 worker(s)": ["64 at a time: 3 wrong answers, 7 of status 503, 2 of no answer"],
    }
    text = to_markdown(outcome)
    assert text.index("NOT ALL ANSWERS WERE RIGHT") < text.index("## Ratios")
    assert (outcome.wrong(), outcome.refused(), outcome.wrong("stock, 1 worker(s)")) == (0, 0, 3)


def test_a_system_that_refuses_everything_is_still_reported(outcome: Outcome) -> None:
    """It has no ratio, its figures are null in strict JSON, and all three reports can be written."""
    nothing = dict.fromkeys(("50", "90", "99", "99.9"), math.nan)
    outcome.samples = [make("kit", 1, rate=0.0, latency_ms=nothing, errors={"503": 9}), make("stock, 1 worker(s)", 1)]
    assert "no right answer at all" in outcome.faults()["kit"][0]
    assert math.isnan(outcome.ratios()["p50 over the time without a server, 1 at a time"].value)
    assert "NaN" not in to_json(outcome)
    assert "9 of status 503" in to_page(outcome)


@pytest.mark.parametrize(
    ("rates", "steady"),
    [([], False), ([100, 100], False), ([50, 80, 100], False), ([50, 100, 95, 104], True), ([0, 0, 0], True)],
)
def test_a_rate_is_steady_once_three_runs_agree(rates: list[float], steady: bool) -> None:
    """Within ten per cent, whatever came before; a server that answers nothing is not waited for."""
    assert is_steady(rates) is steady
