"""A short soak: every fault at least once, on a real server, with nothing wrong and nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SOAK = [sys.executable, "-m", "benchmarking.soak", "--models", "tiny", "--minutes", "1.5", "--pause", "1"]


@pytest.mark.parametrize("target", ["cpu", "inf1"])
def test_a_short_soak_loses_nothing_and_answers_nothing_wrongly(target: str, tmp_path: Path) -> None:
    """Status 0, faults of several kinds, and no request that is wrong or lost; inf1 is emulated."""
    folders = ["--build", str(tmp_path / "b"), "--output", str(tmp_path / "o")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*SOAK, "--target", target, *folders], cwd=ROOT, env=environment, capture_output=True)
    report = json.loads((tmp_path / "o" / "soak.json").read_text())
    assert done.returncode == 0, report["problems"]
    assert set(report["table"]["ends"]) <= {"right", "refused", "abandoned", "failed in a fault"}
    assert report["table"]["ends"]["right"] > 100
    assert len(report["faults"]) >= 3
