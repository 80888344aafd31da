"""What the unit tests share: leases of their own, and a process that is as free after a test as before it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from handlers import cores


@pytest.fixture(autouse=True)
def leases(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder of leases."""
    folder = tmp_path_factory.mktemp("leases")
    monkeypatch.setenv(cores.LEASE_FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture(autouse=True)
def _free_process() -> Iterator[None]:
    """Undo what a worker does to its process: affinity, threads, environment, bytecode."""
    cpus, threads, bytecode = cores.host_cpus(), torch.get_num_threads(), sys.dont_write_bytecode
    environment = dict(os.environ)
    yield
    if cores.host_cpus() != cpus:
        cores.bind_process(cpus)
    torch.set_num_threads(threads)
    sys.dont_write_bytecode = bytecode
    os.environ.clear()
    os.environ.update(environment)
