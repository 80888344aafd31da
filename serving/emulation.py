"""Asking for the emulator: the environment in which builds, checks and servers run on an emulated Inferentia host."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from handlers.neuron import INSTANCE_VARIABLE, find_devices, generation_of
from serving.errors import ServerError
from serving.instances import find_instance

EMULATOR = Path(__file__).resolve().parent.parent / "emulator"
_DEFAULTS = {"inf1": "inf1.xlarge", "inf2": "inf2.xlarge"}  # the smallest of each


def enable_emulation(instance: str | None, target_names: Sequence[str]) -> str:
    """Make this process, and all that it starts, see an emulated host; return its instance type.

    Without ``instance``, the smallest that the first chip among ``target_names`` has. Raises ``ServerError`` on a host
    with a chip, for an unknown instance, and for one that has none of the targets.
    """
    devices = find_devices()
    if devices:
        raise ServerError(f"this host has a Neuron device ({devices[0]}); the emulator never runs beside a chip")
    if not (EMULATOR / "neuron_emulator").is_dir():
        raise ServerError(f"there is no emulator in {EMULATOR}; run the kit from a clone")
    chips = [name for name in target_names if name in _DEFAULTS]
    name = find_instance(instance or _DEFAULTS[(chips or ["inf1"])[0]]).name
    if chips and generation_of(name) not in chips:
        raise ServerError(f"the instance {name} has no {' or '.join(chips)} cores; say TARGET={generation_of(name)}")
    os.environ.update(emulated_environment(os.environ, name))
    if str(EMULATOR) not in sys.path:
        sys.path.append(str(EMULATOR))
    return name


def emulated_environment(environment: Mapping[str, str], instance: str) -> dict[str, str]:
    """Return the variables that let a started program see the emulated ``instance``: frameworks, tools, its name."""
    tools = str(EMULATOR / "bin")
    path = [each for each in environment.get("PATH", os.defpath).split(os.pathsep) if each != tools]
    return {
        "PYTHONPATH": str(EMULATOR),
        "PATH": os.pathsep.join([tools, *path]),
        INSTANCE_VARIABLE: instance,
    }
