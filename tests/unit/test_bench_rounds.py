"""A benchmark of several rounds that one of them ends."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarking import bench
from benchmarking.bench import BenchPlan, run_bench
from benchmarking.limit import Limit
from benchmarking.outcome import Outcome
from benchmarking.page import to_page
from benchmarking.report import to_json, to_markdown
from cli.benching import report_end
from serving.errors import ServerError
from tests.forging import make_record


@pytest.fixture
def plan(tmp_path: Path) -> BenchPlan:
    """Five rounds of an archive that is not started."""
    archive = tmp_path / "tiny.mar"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("image", b"")
    return BenchPlan(archive=archive, record=make_record(golden=()), model="", port=1, rounds=5)


def fail_in(number: int) -> Callable[..., None]:
    """Return a round that measures a limit, and fails in the middle when it is the given one."""

    def measure_round(plan: BenchPlan, folder: Path, requests: Any, outcome: Outcome, begin: Any) -> None:
        outcome.start_seconds.setdefault("kit", []).append(2.0)
        if len(outcome.start_seconds["kit"]) == number:
            raise ServerError("port in use: 1")
        outcome.limits.append(Limit(100.0, 0.1, 0.1))

    return measure_round


def test_the_rounds_before_a_failure_are_kept(
    plan: BenchPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole rounds only, so that neighbours stay neighbours; every report and the status say that it ended early."""
    monkeypatch.setattr(bench, "_measure_round", fail_in(4))
    outcome = run_bench(plan, progress=lambda line: None)
    assert (len(outcome.limits), len(outcome.start_seconds["kit"]), outcome.rounds) == (3, 3, 3)
    said = "round 4 of 5: port in use: 1"
    assert said in to_markdown(outcome)
    assert "of the 3 round(s) before" in to_markdown(outcome)
    assert said in to_json(outcome)
    assert said in to_page(outcome)
    assert report_end(outcome) == 1
    assert said in capsys.readouterr().err


def test_a_failure_in_the_first_round_ends_the_run(plan: BenchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to report."""
    monkeypatch.setattr(bench, "_measure_round", fail_in(1))
    with pytest.raises(ServerError, match="port in use"):
        run_bench(plan, progress=lambda line: None)


def test_a_whole_run_is_not_cut_short(plan: BenchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word of an early end."""
    monkeypatch.setattr(bench, "_measure_round", fail_in(9))
    outcome = run_bench(plan, progress=lambda line: None)
    assert (len(outcome.limits), outcome.cut_short, report_end(outcome)) == (5, "", 0)
    assert "ENDED EARLY" not in to_markdown(outcome)
