"""The AWS instances that can be emulated, as data: chips, cores, memory, and where each figure is from."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

INSTANCE_VARIABLE = "NEURON_EMULATOR_INSTANCE"
LOGICAL_CORE_VARIABLE = "NEURON_LOGICAL_NC_CONFIG"  # trn2 only: physical cores in a logical one, 1 or 2
GIB = 1 << 30
_TABLE = Path(__file__).with_name("instances.json")


@dataclass(frozen=True)
class Instance:
    """One size of instance, as software sees it."""

    name: str
    family: str  # "inf1", "inf2", "trn1", "trn1n" or "trn2"
    chips: int
    cores: int  # of all chips together; logical ones on trn2
    vcpus: int
    host_gib: int
    device_gib_per_core: float
    source: str

    @property
    def cores_per_chip(self) -> int:
        """Return the NeuronCores of one chip."""
        return self.cores // self.chips

    @property
    def device_bytes_per_chip(self) -> int:
        """Return the device memory of one chip in bytes."""
        return int(self.device_gib_per_core * self.cores_per_chip * GIB)


def list_instances() -> list[Instance]:
    """Return every known instance, in the order of the table."""
    return list(_read_table().values())


def get_instance(name: str) -> Instance:
    """Return the instance of a name such as ``inf1.xlarge``; raises ``ValueError`` that lists the known ones."""
    table = _read_table()
    if name not in table:
        raise ValueError(f"unknown instance {name!r}: expected one of {', '.join(table)}")
    return table[name]


def current_instance(environ: Mapping[str, str] = os.environ) -> Instance | None:
    """Return the instance that ``NEURON_EMULATOR_INSTANCE`` names, or None for a host without Neuron devices.

    On trn2, ``NEURON_LOGICAL_NC_CONFIG=1`` shows every physical core; the default, 2, pairs them (AWS Neuron docs:
    about-neuron/arch/neuron-features/logical-neuroncore-config.rst). Raises ``ValueError`` for unknown names.
    """
    name = environ.get(INSTANCE_VARIABLE, "")
    if not name:
        return None
    instance = get_instance(name)
    if instance.family != "trn2":
        return instance
    logical = environ.get(LOGICAL_CORE_VARIABLE, "2")
    if logical not in ("1", "2"):
        raise ValueError(f"{LOGICAL_CORE_VARIABLE}={logical!r}: expected 1 or 2")
    if logical == "2":
        return instance
    return replace(instance, cores=instance.cores * 2, device_gib_per_core=instance.device_gib_per_core / 2)


@cache
def _read_table() -> dict[str, Instance]:
    names = {field.name for field in fields(Instance)}
    rows = json.loads(_TABLE.read_text(encoding="utf-8"))["instances"]
    return {row["name"]: Instance(**{key: value for key, value in row.items() if key in names}) for row in rows}
