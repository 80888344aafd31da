"""Which models, workers and shapes fit on an instance: arithmetic on the table of instances, nothing measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handlers import cores
from handlers.neuron import generation_of
from serving import rules
from serving.errors import NoRoom
from serving.instances import Instance

GIB, MIB = 2**30, 2**20
# GiB. Seen on the emulator: a worker of a small model 0.24, the JVM 0.23 at its start and at most its heap of 1
# (config.properties) with what it takes beside. Rounded up, because the SDK's own share is not known.
_WORKER_GIB, _SERVER_GIB = 0.4, 1.2
# Of device memory, taken by each core of the second generation. AWS docs: neuron-runtime/explore/device-memory.rst
_MICROCODE = {"inf2": 96 * MIB}
_MANY_BUCKETS = 1000  # beyond, the rule says nothing


@dataclass(frozen=True, kw_only=True)
class ModelNeed:
    """What one model asks of an instance."""

    name: str
    target: str  # "inf1" or "inf2"
    cores_per_worker: int
    device_bytes: int  # on each core of a worker, all buckets and batch sizes together; see ``resident_bytes``
    parameters: int
    batch_sizes: tuple[int, ...]
    buckets: tuple[str, ...] = ()  # for people; empty where no dimension varies
    weight_bytes: int = 2  # of one weight on the device
    workers: int = 0  # asked for; 0: as many as fit
    operations: float = 0.0  # floating-point ones of an item in the largest bucket; 0 if not known
    origin: str = "archive"  # or "estimate"

    @property
    def modules(self) -> int:
        """How many compiled shapes a worker loads."""
        return len(self.batch_sizes) * max(1, len(self.buckets))


@dataclass(frozen=True)
class Assignment:
    """One model on its cores."""

    need: ModelNeed
    workers: tuple[tuple[int, ...], ...]  # cores of each
    copies: int  # of the model with all its shapes that the memory of a core holds
    hints: tuple[str, ...] = ()  # AWS's rules of thumb for this model


@dataclass(frozen=True)
class Plan:
    """All models on an instance."""

    instance: Instance
    assignments: tuple[Assignment, ...]  # in the order in which to start them: the cores hold for that order
    free: tuple[int, ...]  # cores that nobody has
    host_gib: float  # of the instance's own memory that TorchServe and the workers take, estimated
    warnings: tuple[str, ...] = ()


def plan_instance(needs: Sequence[ModelNeed], instance: Instance) -> Plan:
    """Return who gets which cores; raise ``NoRoom`` with the arithmetic if a model or its asked workers do not fit.

    Each model gets the workers it asks for, or one and then, in turn, what is left. Cores are those that the workers'
    leases give when the models are started one after the other, wide workers first.
    """
    _validate_names(needs)
    for need in needs:
        _validate(need, instance)
    order = sorted(needs, key=lambda need: -need.cores_per_worker)
    counts = {need.name: need.workers or 1 for need in needs}
    placed = _place(order, counts, instance)
    if placed is None:
        raise NoRoom(_explain(needs, instance))
    waiting = [need for need in order if not need.workers]
    while waiting:
        need = waiting.pop(0)
        more = {**counts, need.name: counts[need.name] + 1}
        found = _place(order, more, instance)
        if found is not None:
            counts, placed = more, found
            waiting.append(need)
    assignments = tuple(_assign(need, placed[need.name], instance) for need in order)
    held = {core for ranges in placed.values() for each in ranges for core in each}
    free = tuple(core for core in range(instance.cores) if core not in held)
    host_gib = _estimate_host_gib(assignments)
    return Plan(instance, assignments, free, host_gib, tuple(_find_warnings(assignments, host_gib, instance)))


def resident_bytes(copy_bytes: int, modules: int, parallel: int) -> int:
    """Return the device memory that a worker's shapes take on its fullest core; ``copy_bytes`` is that of one shape.

    Each shape is loaded by itself, one file for several batch sizes too. Over ``parallel`` cores, ``torch.jit.load``
    puts a copy on one of them, the least used, before ``DataParallel`` puts one on each.
    Source: AWS docs: archive/torch-neuron/guides/core-placement/torch-core-placement.rst.
    """
    doubled = math.ceil(modules / parallel) if parallel > 1 else 0
    return copy_bytes * (modules + doubled)


def device_room(instance: Instance) -> int:
    """Return the bytes of device memory that a core has for models."""
    return int(instance.device_gib_per_core * GIB) - _MICROCODE.get(generation_of(instance.name) or "", 0)


def _validate_names(needs: Sequence[ModelNeed]) -> None:
    names = [need.name for need in needs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NoRoom(f"{', '.join(twice)} is named twice; name each model once, and its workers with --workers MODEL=N")


def _validate(need: ModelNeed, instance: Instance) -> None:
    if generation_of(instance.name) != need.target:
        raise NoRoom(f"{need.name} is for {need.target}, and {instance.name} runs {generation_of(instance.name)}")
    if need.cores_per_worker > instance.cores:
        raise NoRoom(
            f"a worker of {need.name} takes {need.cores_per_worker} cores, {instance.name} has {instance.cores}; "
            "lower pipeline_cores or cores_per_worker, or take a larger instance"
        )
    room = device_room(instance)
    if need.device_bytes > room:
        raise NoRoom(
            f"{need.name} takes {need.device_bytes / GIB:.2f} GiB on a core ({need.modules} shapes of "
            f"{need.parameters:,} weights), {instance.name} has {room / GIB:.3g} GiB: compile fewer batch sizes and "
            "buckets, or spread it over a pipeline"
        )


def _place(
    order: Sequence[ModelNeed], counts: Mapping[str, int], instance: Instance
) -> dict[str, tuple[tuple[int, ...], ...]] | None:
    """Return the cores of each model's workers as leases give them, lowest range first, or None if they do not fit."""
    held: set[int] = set()
    placed = {}
    for need in order:
        count = counts[need.name]
        ranges = cores.free_ranges(range(instance.cores), need.cores_per_worker, held)[:count]
        if len(ranges) < count:
            return None
        held.update(core for each in ranges for core in each)
        placed[need.name] = tuple(ranges)
    return placed


def _explain(needs: Sequence[ModelNeed], instance: Instance) -> str:
    parts = [f"{need.name} {need.workers or 1} x {need.cores_per_worker}" for need in needs]
    total = sum((need.workers or 1) * need.cores_per_worker for need in needs)
    return (
        f"{' + '.join(parts)} = {total} cores in contiguous, aligned ranges do not fit into the {instance.cores} of "
        f"{instance.name}; ask for fewer workers, or take a larger instance"
    )


def _assign(need: ModelNeed, workers: tuple[tuple[int, ...], ...], instance: Instance) -> Assignment:
    return Assignment(need, workers, device_room(instance) // max(1, need.device_bytes), tuple(_list_hints(need)))


def _list_hints(need: ModelNeed) -> list[str]:
    hints = []
    if need.target == "inf1":
        pipeline, buckets = rules.suggest_pipeline(need.parameters), rules.suggest_buckets(need.parameters)
        if pipeline > 1:
            hints.append(f"4 * round(weights / 2e7) = {pipeline} pipeline cores ({rules.PIPELINE_SOURCE})")
        if buckets < _MANY_BUCKETS:
            hints.append(
                f"round(1e9 / weights) = {buckets} shapes on a core, it has {need.modules} ({rules.BUCKETS_SOURCE})"
            )
    if need.operations > 0:
        batch = rules.suggest_batch(
            need.target, parameters=need.parameters, weight_bytes=need.weight_bytes, operations=need.operations
        )
        hints.append(
            f"ceil(0.5 * (peak / bandwidth) / (operations / weights' bytes)) = batch size {batch}, with "
            f"{need.operations / 1e9:.3g} GFLOP an item ({rules.BATCH_SOURCE})"
        )
    return hints


def _estimate_host_gib(assignments: Sequence[Assignment]) -> float:
    """Return what the models' servers and workers take of the host's memory, in GiB.

    Compiled files hold the weights, and a worker keeps them.
    """
    total = 0.0
    for each in assignments:
        weights = each.need.device_bytes * each.need.cores_per_worker / GIB
        total += _SERVER_GIB + len(each.workers) * (_WORKER_GIB + weights)
    return round(total, 2)


def _find_warnings(assignments: Sequence[Assignment], host_gib: float, instance: Instance) -> list[str]:
    total = sum(len(each.workers) for each in assignments)
    warnings = []
    if total > instance.vcpus:
        warnings.append(f"{total} workers share {instance.vcpus} vCPUs; preparing requests may be what is slow")
    if host_gib > instance.host_gib:
        warnings.append(
            f"{total} workers and TorchServe take about {host_gib:.1f} of {instance.host_gib} GiB of memory; "
            "ask for fewer workers"
        )
    return warnings
