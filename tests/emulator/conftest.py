"""What the emulator's tests share: its folder on the path, and a host of its own for each test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EMULATOR = Path(__file__).resolve().parents[2] / "emulator"
sys.path.insert(0, str(EMULATOR))


@pytest.fixture(autouse=True)
def _host(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An inf1.xlarge that no other test sees; the runtime is closed afterwards."""
    from neuron_emulator.runtime import reset_runtime

    for name in ("NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES", "NEURON_EMULATOR_FAULT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf1.xlarge")
    monkeypatch.setenv("NEURON_EMULATOR_FOLDER", str(tmp_path_factory.mktemp("neuron")))
    reset_runtime()
    yield
    reset_runtime()
