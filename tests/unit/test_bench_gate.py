"""The gate: what is worse, what is only noise, and a baseline that cannot be used."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarking.gate import Baseline, compare, explain, judge, read_baselines, to_table, write_baselines
from benchmarking.outcome import Kind, Ratio
from cli.main import main
from serving.errors import ServerError
from tests.servers import ROOT

FREE = str(ROOT / "benchmarking" / "recipes" / "free.py")


def of(low: float, high: float, kind: Kind = "rate", runs: int = 5) -> Ratio:
    """Return a ratio with this interval."""
    return Ratio((low + high) / 2, low, high, runs, kind)


def baseline(**ratios: Ratio) -> Baseline:
    """Return a model's baseline."""
    return Baseline("2026-11-21", "two processors", 5, 3.0, ratios)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (of(3.9, 4.1), of(3.9, 4.1), "same"),
        (of(3.9, 4.1), of(3.0, 3.2), "worse"),
        (of(3.9, 4.1), of(3.4, 3.6), "same"),  # apart, but by no more than the slack of 15 %
        (of(3.0, 5.0), of(2.0, 3.2), "same"),  # far lower, but the intervals overlap
        (of(3.9, 4.1), of(5.0, 5.2), "better"),
        (of(1.0, 1.1, "processor"), of(1.5, 1.6, "processor"), "worse"),
        (of(1.0, 1.1, "processor"), of(0.5, 0.6, "processor"), "better"),
        (of(2.0, 2.2, "tail"), of(3.0, 3.1, "tail"), "same"),
        (of(2.0, 2.2, "tail"), of(4.0, 4.5, "tail"), "worse"),
        (of(1.05, 1.05, "memory"), of(1.15, 1.15, "memory"), "worse"),
        (of(1.9, 2.1, "latency"), of(3.0, 3.1, "latency"), "worse"),
        (of(-0.1, 0.1, "processor"), of(-0.1, 0.2, "processor"), "same"),
    ],
)
def test_a_ratio_is_worse_beyond_both_intervals_and_the_slack(before: Ratio, now: Ratio, expected: str) -> None:
    """Higher is better for rates, lower for the rest."""
    assert judge(before, now) == expected


@pytest.mark.parametrize(("now", "expected"), [(3.0, "same"), (1.0, "worse"), (12.0, "better")])
def test_one_round_is_only_good_to_a_factor(now: float, expected: str) -> None:
    """An interval of one round says nothing about the spread, so that only a large change counts."""
    assert judge(of(4.0, 4.0, runs=1), of(now, now, runs=1)) == expected


def test_what_only_one_side_has_is_named() -> None:
    """A new ratio passes; one that is no longer measured, or is no number, does not."""
    found = compare(baseline(a=of(1, 2), b=of(1, 2), c=of(1, 2)), {"a": of(1, 2), "b": of(math.nan, 1), "d": of(1, 2)})
    words = {each.name: (each.word, each.fails) for each in found}
    assert words == {
        "a": ("same", False),
        "b": ("not measured", True),
        "c": ("not measured", True),
        "d": ("not in the baseline", False),
    }


def test_the_table_says_both_sides_and_the_verdict() -> None:
    """With intervals, and why a slack is left."""
    verdicts = compare(baseline(a=of(3.9, 4.1)), {"a": of(3.0, 3.2), "b": of(1, 1, "memory", runs=1)})
    rows = to_table(verdicts).splitlines()
    assert rows[2] == "| a | 4 (3.9 to 4.1) | 3.1 (3 to 3.2) | worse |"
    assert rows[3] == "| b | - | 1 (none: one round) | not in the baseline |"
    assert "rate 15%, higher is better" in explain(verdicts)
    assert "fewer than 3 rounds" in explain(verdicts)


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Models by name, intervals, day, machine and length."""
    written = {"free": baseline(a=of(1, 2)), "resnet20": baseline(a=of(1, 1, "memory", runs=1))}
    write_baselines(tmp_path / "b.json", written)
    assert read_baselines(tmp_path / "b.json") == written


def broken(**changes: Any) -> str:
    """Return a baseline file with one ratio, fields of it exchanged."""
    ratio = {"value": 1.0, "low": 0.9, "high": 1.1, "runs": 5, "kind": "rate", **changes}
    model = {"day": "2026-11-21", "machine": "m", "rounds": 5, "seconds": 3.0, "ratios": {"a": ratio}}
    return json.dumps({"format": 1, "models": {"free": model}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is no JSON that can be read .*--update"),
        ("[]", r"has format None, expected 1; write it again with --update"),
        ('{"format": 2}', r"has format 2, expected 1"),
        ('{"format": 1}', r"not as the gate writes it: 'models' is missing"),
        ('{"format": 1, "models": []}', r"not as the gate writes it"),
        ('{"format": 1, "models": {"free": {"ratios": {}}}}', r"'day' is missing"),
        (broken(value="fast"), r"'a' has 'fast', 0\.9 and 1\.1, expected three numbers"),
        (broken(low=1.05), r"'a' is 1\.0, outside of its interval from 1\.05 to 1\.1"),
        (broken(kind="speed"), r"'a' is of kind 'speed', expected one of rate, processor"),
    ],
)
def test_a_broken_baseline_is_refused_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """And with what to do."""
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(ServerError, match=message):
        read_baselines(tmp_path / "b.json")


def test_the_shipped_baseline_can_be_read() -> None:
    """It has both reference jobs."""
    assert set(read_baselines(ROOT / "benchmarking" / "baseline.json")) == {"resnet20", "free"}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "there is no baseline"),
        (Baseline("2026-11-21", "m", 5, 3.0, {}), "has no free, only resnet20; measure it with --update"),
    ],
)
def test_the_command_refuses_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: Baseline | None, message: str
) -> None:
    """Status 1 within a second, instead of minutes later."""
    path = tmp_path / "b.json"
    if written is not None:
        write_baselines(path, {"resnet20": written})
    assert main(["bench-gate", "--models", FREE, "--baseline", str(path)]) == 1
    assert message in capsys.readouterr().err
