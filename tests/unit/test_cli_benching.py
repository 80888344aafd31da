"""The commands of the benchmark: what ends them with status 1, and what they refuse at once."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarking.measuring import Sample
from benchmarking.outcome import Outcome
from cli.benching import read_numbers, report_faults
from cli.main import main
from tests.ports import find_port_row


def make(system: str, **more: Any) -> Sample:
    """Return a run of which all answers were right."""
    told: dict[str, Any] = {"offered": 0.0, "rate": 9.0, "latency_ms": {"50": 1.0}, "errors": {}, "wrong": 0}
    told |= {"server_ms": 1.0, "worker_ms": 1.0, "generator_ms": 1.0, "memory_mb": {}, "log_bytes": 0.0}
    return Sample(system=system, concurrency=16, **{**told, **more})


@pytest.mark.parametrize(
    ("samples", "status", "message"),
    [
        ([make("kit"), make("stock")], 0, ""),
        ([make("kit", wrong=3)], 1, "error: 3 answers of the kit's server are not the golden ones"),
        ([make("kit", rate=0.0, errors={"503": 9})], 1, "error: the kit's server gave no right answer at 16 at a time"),
        ([make("kit", errors={"503": 9})], 0, "warning: kit: 16 at a time: 9 of status 503"),
        ([make("kit"), make("stock", wrong=3)], 0, "warning: stock: 16 at a time: 3 wrong answers"),
    ],
)
def test_what_went_wrong_is_said(
    capsys: pytest.CaptureFixture[str], samples: list[Sample], status: int, message: str
) -> None:
    """Of every system; only the kit's own wrong answers, or its silence, end the command with status 1."""
    outcome = Outcome("tiny", "1.0", "cpu", False, "m", "2026-11-21", None, samples=samples)
    assert report_faults(outcome) == status
    errors = capsys.readouterr().err
    assert message in errors
    assert bool(errors) == bool(message)


def test_numbers_are_taken_once_and_in_order() -> None:
    """Twice the same load would be two rounds of one."""
    assert read_numbers("64,1,1,16") == (1, 16, 64)
    with pytest.raises(argparse.ArgumentTypeError, match="'1,0' are no numbers of requests; expected 1,16,64"):
        read_numbers("1,0")


@pytest.mark.parametrize("command", [["bench", "tiny"], ["bench-gate"]])
@pytest.mark.parametrize("length", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_a_run_of_no_length_is_refused(
    capsys: pytest.CaptureFixture[str], command: list[str], length: list[str]
) -> None:
    """Before anything starts."""
    assert main([*command, *length]) == 1
    assert "expected more than nothing" in capsys.readouterr().err


def test_wrk_that_is_missing_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after an archive has been built for minutes."""
    monkeypatch.setenv("PATH", "")
    words = ["bench", "tiny", "--generator", "wrk", "--store", str(tmp_path), "--port", str(find_port_row(5))]
    assert main(words) == 1
    assert "there is no wrk on PATH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
