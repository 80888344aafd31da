"""Which cores of the process a module is loaded on: the placement functions that both frameworks have.

AWS docs: archive/torch-neuron/api-core-placement.rst, api-torch-neuronx-core-placement.rst. Cores are numbered from 0
inside the process. The contexts are one for all threads, as AWS documents them: not thread safe.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from neuron_emulator.runtime import Runtime, get_runtime

_active: list[tuple[int, int]] = [(-1, -1)]  # the default, then the contexts, innermost last
_NO_RUNTIME = "Neuron runtime cannot be initialized; cannot determine the number of available NeuronCores"


def current_placement() -> tuple[int, int]:
    """Return the (start_nc, nc_count) that loads are to use now; -1 leaves one to the runtime."""
    return _active[-1]


def set_default_placement(start_nc: int, nc_count: int) -> None:
    """Set what loads outside of every context use."""
    _active[0] = (start_nc, nc_count)


def set_neuron_cores(trace: Any, start_nc: int = -1, nc_count: int = -1) -> None:
    """Move the compiled graphs of a TorchScript module to ``nc_count`` cores from ``start_nc``.

    Twice the cores that a graph takes gives two copies, used in turn. A module without compiled graphs stays as it is.
    Raises ``RuntimeError`` if the runtime cannot start or the cores are not this process's, ``ValueError`` for a bad
    ``nc_count``.
    """
    from neuron_emulator.modules import place_subgraphs

    open_runtime()
    place_subgraphs(trace, start_nc=start_nc, nc_count=nc_count, again=True)


def set_multicore(trace: Any) -> None:
    """Load the compiled graphs of a TorchScript module on all cores of the process, as many copies as fit."""
    set_neuron_cores(trace, 0, len(open_runtime().cores))


@contextmanager
def neuron_cores_context(start_nc: int = -1, nc_count: int = -1) -> Iterator[None]:
    """Let ``torch.jit.load`` inside a ``with`` place what it loads like ``set_neuron_cores``."""
    open_runtime()
    _active.append((start_nc, nc_count))
    try:
        yield
    finally:
        _active.pop()


@contextmanager
def multicore_context() -> Iterator[None]:
    """Let ``torch.jit.load`` inside a ``with`` load on all cores of the process."""
    with neuron_cores_context(0, len(open_runtime().cores)):
        yield


def open_runtime() -> Runtime:
    """Return the process's runtime; raise the ``RuntimeError`` of functions that count its cores."""
    try:
        return get_runtime()
    except RuntimeError as exc:
        raise RuntimeError(_NO_RUNTIME) from exc
