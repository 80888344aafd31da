"""Training of the housing model, on a file of rows that are made up."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.servers import RECIPES

FOLDER = RECIPES / "housing"
NAMES = [*json.loads((FOLDER / "one.json").read_text()), "median_house_value"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file like the census', with rows made up: prices follow income; the first lacks its bedrooms."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "made_up.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(NAMES)
        for number in range(2700):
            income = float(random.uniform(1, 9))
            bedrooms = int(random.integers(50, 900)) if number else None
            place = [random.uniform(-124, -115), random.uniform(33, 41), random.integers(1, 52)]
            counts = [random.integers(100, 5000), bedrooms, random.integers(100, 3000), random.integers(50, 900)]
            kind = ["INLAND", "NEAR BAY"][number % 2]
            writer.writerow([*place, *counts, income, kind, min(500_001, 60_000 * income)])
    return path


def _run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / script, *words]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200, check=False)


def test_a_run_that_was_stopped_resumes_to_the_same_weights(data, tmp_path):
    """Three epochs in one go, and three of which the second was cut off, end alike."""
    whole = _run("train.py", data, "--epochs", 3, "--work", tmp_path / "a", "--output", tmp_path / "a.safetensors")
    assert whole.returncode == 0, whole.stderr
    assert json.loads((tmp_path / "a" / "report.json").read_text())["test_rows"] == 2000
    words = [data, "--epochs", 3, "--work", tmp_path / "b", "--output", tmp_path / "b.safetensors"]
    assert _run("train.py", *words, "--stop-after", 1).returncode == 0
    assert not (tmp_path / "b.safetensors").exists()
    halves = _run("train.py", *words)
    assert "going on after epoch 1 of 3" in halves.stdout
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)
    assert "belongs to another run" in _run("train.py", *words, "--seed", 2).stderr
