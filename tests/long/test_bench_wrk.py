"""The benchmark driven by wrk: the same figures from another load generator."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import find_port_row
from tests.servers import ROOT

pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")]


def test_wrk_measures_the_closed_loops(tmp_path: Path) -> None:
    """Every answer was right, rates and latencies are there, and the report says who made the load."""
    words = ["bench", "tiny", "--generator", "wrk", "--no-stock", "--rounds", "1", "--seconds", "1"]
    words += ["--concurrency", "4,1", "--port", str(find_port_row(5))]
    places = ["--store", tmp_path / "store", "--build", tmp_path / "build", "--output", tmp_path / "bench"]
    command = [sys.executable, "-m", "cli.main", *words, *map(str, places)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "Load generator: wrk " in done.stdout
    found = json.loads((tmp_path / "bench" / "tiny.json").read_text())
    assert [each["concurrency"] for each in found["samples"]] == [1, 4]
    for each in found["samples"]:
        assert (each["errors"], each["wrong"]) == ({}, 0)
        assert each["rate"] > 0
        assert 0 < each["latency_ms"]["50"] <= each["latency_ms"]["99.9"]
        assert each["server_ms"] > 0
        assert each["batch"] >= 1
