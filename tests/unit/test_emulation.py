"""Asking for the emulator: which instance, where it is refused, and what started programs see."""

import os
import sys
from pathlib import Path

import pytest

from handlers import neuron
from handlers.neuron import INSTANCE_VARIABLE
from serving.emulation import EMULATOR, emulated_environment, enable_emulation
from serving.errors import ServerError
from serving.instances import find_instance, list_instances


@pytest.fixture(autouse=True)
def _no_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host without chips, and an environment that is put back."""
    monkeypatch.setattr(neuron, "DEVICES", str(tmp_path / "neuron[0-9]*"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PATH", "PYTHONPATH", INSTANCE_VARIABLE):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.mark.parametrize(
    ("instance", "targets", "expected"),
    [
        (None, ["inf1"], "inf1.xlarge"),
        (None, ["inf2", "cpu"], "inf2.xlarge"),
        (None, ["cpu"], "inf1.xlarge"),
        ("inf1.24xlarge", ["inf1"], "inf1.24xlarge"),
        ("trn1.2xlarge", ["inf2"], "trn1.2xlarge"),
    ],
)
def test_the_instance_is_the_one_named_or_the_smallest(instance: str | None, targets: list[str], expected: str) -> None:
    """This process sees it from then on, and finds the emulator."""
    assert enable_emulation(instance, targets) == expected
    assert os.environ[INSTANCE_VARIABLE] == expected
    assert str(EMULATOR) in sys.path
    assert os.environ["PATH"].split(":")[0] == str(EMULATOR / "bin")


@pytest.mark.parametrize(
    ("instance", "targets", "message"),
    [
        ("inf1.huge", ["inf1"], "unknown instance type 'inf1.huge'; known are inf1.xlarge, "),
        ("inf2.xlarge", ["inf1"], "the instance inf2.xlarge has no inf1 cores; say TARGET=inf2"),
    ],
)
def test_an_instance_that_cannot_be_is_refused(instance: str, targets: list[str], message: str) -> None:
    """With what to say instead."""
    with pytest.raises(ServerError, match=message):
        enable_emulation(instance, targets)


def test_the_emulator_never_runs_beside_a_chip(tmp_path: Path) -> None:
    """Emulated answers on a host that has the real thing would be a lie waiting to happen."""
    (tmp_path / "neuron0").touch()
    with pytest.raises(ServerError, match=r"this host has a Neuron device .*neuron0"):
        enable_emulation(None, ["inf1"])


def test_asking_twice_changes_nothing() -> None:
    """A server is started from a process that has asked already."""
    once = emulated_environment({"PATH": "/bin"}, "inf1.xlarge")
    assert emulated_environment(once, "inf1.xlarge") == once


def test_every_instance_of_the_table_is_whole() -> None:
    """Cores, processors and memory are there, and a name is there once."""
    names = [each.name for each in list_instances()]
    assert len(set(names)) == len(names) >= 11
    assert all(each.cores > 0 and each.vcpus > 0 and each.device_gib_per_core > 0 for each in list_instances())
    assert (find_instance("inf1.6xlarge").cores, find_instance("inf1.6xlarge").vcpus) == (16, 24)
