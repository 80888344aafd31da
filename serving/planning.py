"""Which models, workers and shapes fit on an instance: arithmetic on the table of instances, nothing measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handlers import cores
from handlers.neuron import generation_of
from serving.errors import NoRoom
from serving.instances import Instance

GIB = 2**30
# A worker with torch and a small model, and the JVM's heap of config.properties, as `make test-long` saw them.
_WORKER_GIB, _SERVER_GIB = 0.4, 1.2
# AWS docs: about-neuron/arch/neuron-hardware/{inf1,inf2}-arch.rst; operations (bf16) and bytes a second of one chip.
_PEAK = {"inf1": (64e12, 50 * GIB), "inf2": (190e12, 820 * GIB)}
_MANY_BUCKETS = 1000  # beyond, the rule says nothing
_BYTES = {"inf1": 2, "inf2": 2}  # of a weight in the default cast


@dataclass(frozen=True, kw_only=True)
class ModelNeed:
    """What one model asks of an instance."""

    name: str
    target: str  # "inf1" or "inf2"
    cores_per_worker: int
    device_bytes: int  # on each core of a worker, all buckets and batch sizes together
    parameters: int
    batch_sizes: tuple[int, ...]
    buckets: tuple[str, ...] = ()  # for people; empty where no dimension varies
    workers: int = 0  # asked for; 0: as many as fit
    operations: float = 0.0  # of one item; 0 if not known
    origin: str = "archive"  # or "estimate"


@dataclass(frozen=True)
class Assignment:
    """One model on its cores."""

    need: ModelNeed
    workers: tuple[tuple[int, ...], ...]  # cores of each
    copies: int  # that would fit into the memory of one core
    hints: tuple[str, ...] = ()  # AWS's rules of thumb for this model


@dataclass(frozen=True)
class Plan:
    """All models on an instance."""

    instance: Instance
    assignments: tuple[Assignment, ...]
    free: tuple[int, ...]  # cores that nobody has
    warnings: tuple[str, ...] = field(default=())


def plan_instance(needs: Sequence[ModelNeed], instance: Instance) -> Plan:
    """Return who gets which cores; raise ``NoRoom`` with the arithmetic if a model or its asked workers do not fit.

    Models that ask for workers get theirs first, wide ones before narrow ones; what is left is dealt out in turn.
    Ranges follow the rule of the workers' leases: contiguous, and aligned to their length.
    """
    for need in needs:
        _validate(need, instance)
    placed: dict[str, list[tuple[int, ...]]] = {need.name: [] for need in needs}
    order = sorted(needs, key=lambda need: -need.cores_per_worker)
    for need in order:
        for _ in range(need.workers or 1):
            if not _place(need, placed, instance):
                raise NoRoom(_explain(needs, instance))
    waiting = [need for need in order if not need.workers]
    while waiting:
        waiting = [need for need in waiting if _place(need, placed, instance)]
    assignments = tuple(_assign(need, tuple(placed[need.name]), instance) for need in needs)
    return Plan(
        instance, assignments, tuple(_list_free(placed, instance)), tuple(_find_warnings(assignments, instance))
    )


def pipeline_cores(parameters: int) -> int:
    """Return AWS's rule for NeuronCore Pipelines, 4 * round(weights / 2e7); 0 says that none is worth it.

    Source: AWS docs, about-neuron/arch/neuron-features/neuroncore-pipeline.rst.
    """
    return 4 * round(parameters / 2e7)


def buckets_per_core(parameters: int) -> int:
    """Return how many buckets a core of inf1 holds, round(1e9 / weights) in bf16.

    Source: AWS docs, archive/appnotes/torch-neuron/bucketing-app-note.rst.
    """
    return round(1e9 / max(1, parameters))


def recommended_batch(target: str, parameters: int, operations: float) -> int:
    """Return AWS's rule for the batch size: half the chip's operations a byte over the model's, rounded up.

    Source: AWS docs, about-neuron/arch/neuron-features/neuroncore-batching.rst. ``operations`` are those of one item.
    """
    peak, bandwidth = _PEAK[target]
    intensity = operations / (parameters * _BYTES[target])
    return max(1, math.ceil(0.5 * (peak / bandwidth) / intensity))


def as_table(plan: Plan) -> str:
    """Return a plan for people."""
    instance = plan.instance
    lines = [
        f"{instance.name}: {instance.cores} NeuronCores of {instance.device_gib_per_core:g} GiB, "
        f"{instance.vcpus} vCPUs, {instance.host_gib} GiB of memory ({instance.source})"
    ]
    for each in plan.assignments:
        need = each.need
        ranges = ", ".join(_show_range(cores_of) for cores_of in each.workers)
        lines += [
            f"{need.name} for {need.target} ({need.origin}, {need.parameters:,} parameters)",
            f"  workers      {len(each.workers)} x {need.cores_per_worker} core(s), on {ranges}",
            f"  batch sizes  {', '.join(map(str, need.batch_sizes))}"
            + (f"; buckets {', '.join(need.buckets)}" if need.buckets else ""),
            f"  memory       {need.device_bytes / GIB:.3f} of {instance.device_gib_per_core:g} GiB on each core "
            f"(estimate: weights); {each.copies} copies would fit",
            *(f"  note         {hint}" for hint in each.hints),
        ]
    lines.append(f"free cores: {_show_range(plan.free) if plan.free else 'none'}")
    return "\n".join([*lines, *(f"WARNING: {warning}" for warning in plan.warnings)])


def _validate(need: ModelNeed, instance: Instance) -> None:
    if generation_of(instance.name) != need.target:
        raise NoRoom(f"{need.name} is for {need.target}, and {instance.name} runs {generation_of(instance.name)}")
    if need.cores_per_worker > instance.cores:
        raise NoRoom(
            f"a worker of {need.name} takes {need.cores_per_worker} cores, {instance.name} has {instance.cores}; "
            "lower pipeline_cores or cores_per_worker, or take a larger instance"
        )
    room = instance.device_gib_per_core * GIB
    if need.device_bytes > room:
        raise NoRoom(
            f"{need.name} takes {need.device_bytes / GIB:.2f} GiB on a core, {instance.name} has "
            f"{instance.device_gib_per_core:g} GiB: compile fewer batch sizes and buckets, or spread it over a pipeline"
        )


def _place(need: ModelNeed, placed: Mapping[str, list[tuple[int, ...]]], instance: Instance) -> bool:
    held = {core for ranges in placed.values() for each in ranges for core in each}
    ranges = cores.free_ranges(range(instance.cores), need.cores_per_worker, held)
    if ranges:
        placed[need.name].append(ranges[0])
    return bool(ranges)


def _list_free(placed: Mapping[str, list[tuple[int, ...]]], instance: Instance) -> list[int]:
    held = {core for ranges in placed.values() for each in ranges for core in each}
    return [core for core in range(instance.cores) if core not in held]


def _explain(needs: Sequence[ModelNeed], instance: Instance) -> str:
    parts = [f"{need.name} {need.workers or 1} x {need.cores_per_worker}" for need in needs]
    total = sum((need.workers or 1) * need.cores_per_worker for need in needs)
    return (
        f"{' + '.join(parts)} = {total} cores in contiguous, aligned ranges do not fit into the {instance.cores} of "
        f"{instance.name}; ask for fewer workers, or take a larger instance"
    )


def _assign(need: ModelNeed, workers: tuple[tuple[int, ...], ...], instance: Instance) -> Assignment:
    copies = int(instance.device_gib_per_core * GIB // max(1, need.device_bytes))
    hints = []
    if need.target == "inf1" and pipeline_cores(need.parameters):
        hints.append(f"AWS's 4 * round(weights / 2e7) gives {pipeline_cores(need.parameters)} pipeline cores")
    if need.target == "inf1" and buckets_per_core(need.parameters) < _MANY_BUCKETS:
        hints.append(f"AWS's round(1e9 / weights) gives {buckets_per_core(need.parameters)} buckets on a core")
    if need.operations:
        batch = recommended_batch(need.target, need.parameters, need.operations)
        hints.append(f"AWS's rule for the batch size gives {batch} ({need.operations / 1e9:.2f} GFLOP an item)")
    return Assignment(need, workers, copies, tuple(hints))


def _find_warnings(assignments: Sequence[Assignment], instance: Instance) -> list[str]:
    total = sum(len(each.workers) for each in assignments)
    warnings = []
    if total > instance.vcpus:
        warnings.append(f"{total} workers share {instance.vcpus} vCPUs; preparing requests may be what is slow")
    wanted = _SERVER_GIB + total * _WORKER_GIB
    if wanted > instance.host_gib:
        warnings.append(f"{total} workers and TorchServe take about {wanted:.1f} of {instance.host_gib} GiB of memory")
    return warnings


def _show_range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
