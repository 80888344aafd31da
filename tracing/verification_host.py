"""Cores to verify a build on: an emulated host of its own, or leased cores of a real one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from handlers import cores, neuron


@contextmanager
def verification_host(backend: Any, worker_cores: int, *, emulated: bool) -> Iterator[None]:
    """Give this process cores to verify on: an emulated host of its own, or leased ones of a chip."""
    if emulated:
        with tempfile.TemporaryDirectory(prefix="torchserve-neuron-") as registry, _environment(registry):
            yield
        return
    if backend.missing(False) is not None:
        yield
        return
    lease = cores.take_lease(
        backend.core_kind(), worker_cores, host_cores=backend.host_cores(), places=1, label="verification of a build"
    )
    try:
        backend.prepare(lease.cores)
        yield
    finally:
        lease.release()


@contextmanager
def _environment(registry: str) -> Iterator[None]:
    """Emulate a host that no server's workers are on, for the time of a ``with``."""
    from neuron_emulator.runtime import reset_runtime

    names = ("NEURON_EMULATOR_FOLDER", "NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ["NEURON_EMULATOR_FOLDER"] = registry
    reset_runtime()
    try:
        yield
    finally:
        reset_runtime()
        for name in names:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def emulated_instance() -> Any:
    """Return the emulated instance, whose memory and cores are known; Any: its class is the emulator's."""
    if neuron.INSTANCE_VARIABLE not in os.environ:
        return None
    from neuron_emulator.instances import current_instance

    return current_instance()
