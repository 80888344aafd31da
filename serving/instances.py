"""The table of instance types: cores, memory, processors and prices, as AWS publishes them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from serving.errors import ServerError

# One table for the kit and the emulator.
TABLE = Path(__file__).resolve().parent.parent / "emulator" / "neuron_emulator" / "instances.json"


@dataclass(frozen=True)
class Instance:
    """One instance type."""

    name: str  # "inf1.xlarge"
    family: str  # "inf1", "inf2", "trn1", "trn1n", "trn2"
    chips: int
    cores: int  # NeuronCores that software sees
    vcpus: int
    host_gib: float
    device_gib_per_core: float
    source: str  # where the figures are from


@cache
def list_instances() -> tuple[Instance, ...]:
    """Return all instance types of the table, in its order; raise ``ServerError`` if it is not there."""
    try:
        rows: list[dict[str, Any]] = json.loads(TABLE.read_text())["instances"]
    except (OSError, ValueError, KeyError) as exc:
        raise ServerError(f"the table of instances {TABLE} cannot be read ({exc}); run the kit from a clone") from exc
    fields = Instance.__dataclass_fields__
    return tuple(Instance(**{name: row[name] for name in fields}) for row in rows)


def find_instance(name: str) -> Instance:
    """Return the instance type ``name``; raise ``ServerError`` that lists those there are."""
    for instance in list_instances():
        if instance.name == name:
            return instance
    known = ", ".join(instance.name for instance in list_instances())
    raise ServerError(f"unknown instance type {name!r}; known are {known}")
