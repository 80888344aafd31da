"""Where in a process a model goes: least-used cores first, contiguous for pipelines, replicated on request."""

from collections.abc import Sequence


def choose_cores(loads: Sequence[int], cores: int, *, start_nc: int = -1, nc_count: int = -1) -> list[tuple[int, ...]]:
    """Return the process-relative cores of each copy of a model that takes ``cores`` contiguous ones.

    ``loads`` has the number of models on each core of the process. ``start_nc`` is the first core, -1 for the least
    used; ``nc_count`` is how many cores to fill with ``nc_count // cores`` copies, -1 for one copy (AWS Neuron docs:
    archive/torch-neuron/guides/core-placement/torch-core-placement.rst). The process must have at least ``cores``.
    Raises ``ValueError`` for a bad ``nc_count``, ``RuntimeError`` for a bad ``start_nc``; the texts are the emulator's.
    """
    owned = len(loads)
    _validate_start(start_nc, owned)
    span = _read_span(cores, nc_count, max(start_nc, 0), owned)
    if start_nc >= 0 and start_nc + span > owned:
        raise RuntimeError(
            f"start_nc={start_nc}: a model of {cores} NeuronCore(s) does not fit behind it, this process has "
            f"{owned} (0 to {owned - 1})"
        )
    start = start_nc if start_nc >= 0 else _find_least_used(loads, span)
    return [tuple(range(first, first + cores)) for first in range(start, start + span - cores + 1, cores)]


def _find_least_used(loads: Sequence[int], span: int) -> int:
    """Return the first core of the least-used range; among equals the lowest, so that models go up in linear order."""
    return min(range(len(loads) - span + 1), key=lambda start: sum(loads[start : start + span]))


def _validate_start(start_nc: int, owned: int) -> None:
    if not -1 <= start_nc < owned:
        raise RuntimeError(
            f"start_nc={start_nc}: expected a NeuronCore of this process, 0 to {owned - 1}, or -1 for the least used; "
            "inside a process cores are numbered from 0"
        )


def _read_span(cores: int, nc_count: int, start: int, owned: int) -> int:
    """Return how many cores the copies may take together."""
    if nc_count == -1:
        return cores
    if not cores <= nc_count <= owned - start:
        raise ValueError(
            f"nc_count={nc_count}: expected -1 for one copy, or {cores} (the model's NeuronCores) to {owned - start} "
            f"(this process has {owned}, counted from {start})"
        )
    return nc_count
