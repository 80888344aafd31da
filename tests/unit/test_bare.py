"""The memory of torch with a model and nothing else, in a process of its own."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarking.bare import measure_bare, read_peak_mb
from serving.errors import ServerError
from tests.forging import make_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The record of an unpacked archive, without its modules."""
    (tmp_path / "artifact.json").write_text(json.dumps(asdict(make_record())))
    return tmp_path


def test_a_module_that_does_not_load_is_an_error(folder: Path) -> None:
    """Rather than the memory of a process that failed."""
    with pytest.raises(ServerError, match="torch with the model alone failed"):
        measure_bare(folder)


def test_a_model_without_a_cpu_variant_has_no_such_figure(folder: Path) -> None:
    """A chip's module does not load without its runtime."""
    record = json.loads((folder / "artifact.json").read_text())
    record["variants"][0]["target"] = "inf1"
    (folder / "artifact.json").write_text(json.dumps(record))
    assert measure_bare(folder) is None


def test_the_peak_is_that_of_the_kernel() -> None:
    """Of this process some megabytes; of one that is gone, nothing."""
    assert 10 < (read_peak_mb(os.getpid()) or 0) < 100_000
    assert read_peak_mb(2**22 + 1) is None
