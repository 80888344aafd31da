"""The emulated host's own record: which process owns each core, and what the core has done for it."""

from collections.abc import Mapping
from dataclasses import asdict
from os import environ as _environ
from pathlib import Path
from typing import Any

from neuron_emulator.environment import registry_folder
from neuron_emulator.instances import Instance, current_instance
from neuron_emulator.ownership import Owner, list_owners, lock_registry
from neuron_emulator.records import CoreCounts, ProcessCounts, read_record


def describe_host(environ: Mapping[str, str] = _environ) -> dict[str, Any]:
    """Return what the host's processes have written down, for the tools and for tests.

    ``{"emulated": True, "instance": {...} or None, "folder": str, "cores": [...], "processes": [...]}``. Each core of
    the host has ``core``, ``chip``, ``pid`` (None if free) and the counts of ``records.CoreCounts`` since its owner
    took it. Each process has what ``records.ProcessCounts`` lists, and ``memory_bytes``; counts are at most a second
    old. Records of dead processes are left out and removed.
    """
    instance = current_instance(environ)
    folder = registry_folder(environ)
    with lock_registry(folder):
        owners = list_owners(folder)
        _remove_stale(folder, owners)
        records = {owner.first: _read_live(folder, owner) for owner in owners if owner.core == owner.first}
    cores = instance.cores if instance else max((owner.core + 1 for owner in owners), default=0)
    owner_of = {owner.core: owner for owner in owners}
    return {
        "emulated": True,
        "instance": asdict(instance) if instance else None,
        "folder": str(folder),
        "cores": [_describe_core(core, instance, owner_of.get(core), records) for core in range(cores)],
        "processes": [_describe_process(record) for record in records.values()],
    }


def _read_live(folder: Path, owner: Owner) -> ProcessCounts:
    """Return a living process's record; an empty one if it has just taken its cores and written none."""
    record = read_record(folder, owner.first)
    if record is not None and record.pid == owner.pid:
        return record
    return ProcessCounts(owner.pid, "", str(owner.pid), "", (owner.first,), 0.0)


def _describe_core(
    core: int, instance: Instance | None, owner: Owner | None, records: Mapping[int, ProcessCounts]
) -> dict[str, Any]:
    record = records.get(owner.first) if owner else None
    counts = record.per_core.get(core, CoreCounts()) if record else CoreCounts()
    chip = core // instance.cores_per_chip if instance else 0
    return {"core": core, "chip": chip, "pid": owner.pid if owner else None, **asdict(counts)}


def _describe_process(record: ProcessCounts) -> dict[str, Any]:
    memory = sum(counts.memory_bytes for counts in record.per_core.values())
    return {**asdict(record), "memory_bytes": memory}


def _remove_stale(folder: Path, owners: list[Owner]) -> None:
    living = {f"record-{owner.first}" for owner in owners}
    for path in folder.glob("record-*"):
        if path.stem not in living:
            path.unlink(missing_ok=True)
