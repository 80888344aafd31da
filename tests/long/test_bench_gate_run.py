"""The gate on a real server: a run becomes the baseline, and a ratio that has fallen shuts the gate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarking.gate import Baseline, read_baselines, write_baselines
from benchmarking.outcome import Ratio
from tests.ports import find_port_row
from tests.servers import ROOT

pytestmark = pytest.mark.long
FREE = ROOT / "benchmarking" / "recipes" / "free.py"
RATE = "rate over no server at all, 16 at a time"


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run one short round of the gate on the model that is nearly free."""
    command = [sys.executable, "-m", "cli.main", "bench-gate", "--models", FREE, "--rounds", "1", "--seconds", "1"]
    command += ["--store", folder / "store", "--build", folder / "build", "--output", folder / "reports"]
    command += ["--baseline", folder / "baseline.json", "--port", find_port_row(5), *words]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=280)


def test_an_update_keeps_other_models_and_writes_every_ratio(tmp_path: Path) -> None:
    """With the day and the length; rates, processor time, latency, tail and memory are in it."""
    other = Baseline("2026-01-01", "m", 5, 3.0, {"a": Ratio(1.0, 1.0, 1.0, 5)})
    write_baselines(tmp_path / "baseline.json", {"other": other})
    done = run(tmp_path, "--update")
    assert done.returncode == 0, done.stderr
    found = read_baselines(tmp_path / "baseline.json")
    assert found["other"] == other
    assert {each.kind for each in found["free"].ratios.values()} == {"rate", "processor", "latency", "tail", "memory"}
    assert (found["free"].rounds, found["free"].seconds) == (1, 1.0)


def test_a_ratio_that_has_fallen_shuts_the_gate(tmp_path: Path) -> None:
    """Status 1, the ratio is named, and a report to look at lies beside."""
    before = Baseline("2026-01-01", "m", 5, 3.0, {RATE: Ratio(50.0, 49.0, 51.0, 5)})
    write_baselines(tmp_path / "baseline.json", {"free": before})
    done = run(tmp_path)
    assert done.returncode == 1
    assert f"error: free: {RATE} is worse" in done.stderr
    assert "the baseline is of another machine" in done.stderr
    assert "| not in the baseline |" in done.stdout
    assert json.loads((tmp_path / "reports" / "free.json").read_text())["faults"].get("kit") is None
