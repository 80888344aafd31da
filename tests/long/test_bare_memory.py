"""The memory that a worker's is compared with is that of torch with all of the model's modules."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarking.bare import measure_bare
from tests.forging import make_record, save_module

pytestmark = pytest.mark.long


def save(path: Path, outputs: int) -> None:
    """Write a module with 192 weights for each output."""
    save_module(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, outputs)), path)


def test_all_modules_are_loaded_at_the_same_time(tmp_path: Path) -> None:
    """With a second module of 40 MB of weights it takes tens of megabytes more than with a second small one."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "artifact.json").write_text(json.dumps(asdict(make_record())))
    found = []
    for outputs in (52_000, 2):
        save(tmp_path / "modules" / "a.pt", 52_000)
        save(tmp_path / "modules" / "b.pt", outputs)
        found.append(measure_bare(tmp_path))
    whole, part = found
    assert whole is not None
    assert part is not None
    assert 20 < whole - part < 120
