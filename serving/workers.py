"""How many workers a host has room for: one for each processor, or as many as its free NeuronCores hold."""

import os
from dataclasses import dataclass
from typing import Any

from handlers import cores, targets
from handlers.artifact import Record, Variant
from handlers.neuron import INSTANCE_VARIABLE
from handlers.starting import choose_variant
from serving.errors import NoRoom
from serving.host import count_processors


@dataclass(frozen=True)
class Crew:
    """The workers that an archive gets on this host."""

    variant: Variant
    passed_over: list[str]  # why variants before it were not taken
    workers: int


def plan_crew(record: Record, asked: int = 0) -> Crew:
    """Return the variant that this host runs and how many workers; ``asked`` is 0 for as many as fit.

    Raises ``NoTarget`` if no variant runs here, and ``NoRoom`` with the arithmetic if the workers do not fit.
    """
    variant, passed_over = choose_variant(record)
    if variant.target == "cpu":
        return Crew(variant, passed_over, asked or count_processors())
    target = targets.get_target(variant.target)
    return Crew(variant, passed_over, _fit(target, variant, record.name, asked))


def _fit(target: Any, variant: Variant, model: str, asked: int) -> int:
    numbers, each = target.host_cores(), variant.cores_per_worker
    holders = [holder for holder in cores.lease_holders() if holder.kind == target.core_kind()]
    held = {holder.core for holder in holders} & set(numbers)
    fitting = len(cores.free_ranges(numbers, each, held))
    if fitting and asked <= fitting:
        return asked or fitting
    host = os.environ.get(INSTANCE_VARIABLE) or "this host"
    by = ", ".join(sorted({f"{holder.label} (pid {holder.pid})" for holder in holders}))
    wanted = asked or 1
    advice = f"ask for at most {fitting} (WORKERS={fitting})" if fitting else "stop a server that holds cores"
    raise NoRoom(
        f"{wanted} workers of {model} x {each} core(s) = {wanted * each} NeuronCores; {host} has {len(numbers)}, "
        f"{len(held)} held{f' by {by}' if by else ''}: {advice}, or take a larger instance"
    )
