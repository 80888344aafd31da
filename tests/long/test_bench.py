"""The whole benchmark on the smallest model: every system answers rightly, and every figure is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import find_port_row
from tests.servers import ROOT

pytestmark = pytest.mark.long


def test_bench_prints_ratios_and_writes_three_reports(tmp_path: Path) -> None:
    """One short round on free ports: no wrong answer, no error, positive figures for each system."""
    words = ["bench", "tiny", "--rounds", "1", "--seconds", "1", "--port", str(find_port_row(5))]
    places = ["--store", tmp_path / "store", "--build", tmp_path / "build", "--output", tmp_path / "bench"]
    command = [sys.executable, "-m", "cli.main", *words, *map(str, places)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "rate over the better stock server, 16 at a time" in done.stdout
    found = json.loads((tmp_path / "bench" / "tiny.json").read_text())
    assert {each["system"] for each in found["samples"]} == {"kit", "stock, 1 worker(s)", "stock, 2 worker(s)"}
    assert all(each["rate"] > 0 and each["wrong"] == 0 and each["server_ms"] > 0 for each in found["samples"])
    kit = [each for each in found["samples"] if each["system"] == "kit"]
    assert all(not each["errors"] and each["log_bytes"] == 0 and each["batch"] >= 1 for each in kit)
    assert "<svg" in (tmp_path / "bench" / "tiny.html").read_text()
