"""Faults on demand, by ``NEURON_EMULATOR_FAULT`` and ``NEURON_EMULATOR_DRIVER_VERSION``: does a program bear them?"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from neuron_emulator.environment import DRIVER, FAULT
from neuron_emulator.instances import Instance
from neuron_emulator.messages import (
    DRIVER_MISSING,
    DRIVER_OLD,
    NO_DEVICE,
    LogLine,
    StartFault,
    bad_setting,
    completed_with,
    timed_out,
)

_OLDEST_DRIVER = (2, 0)  # AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst
# The last driver that knows inf1 (AWS Neuron docs:
# about-neuron/announcements/neuron2.x/announce-correction-neuron-driver-support-inf1.rst).
_LAST_DRIVER_FOR_INF1 = (2, 24)


@dataclass(frozen=True)
class ExecutionFault:
    """How an execution fails."""

    status: int  # of NRT
    outcome: str  # as neuron-monitor counts it
    error: str  # likewise

    def log_lines(self, timeout_seconds: int, chip: int, core: int) -> list[LogLine]:
        """Return what the log says about it on a core of a chip."""
        return timed_out(timeout_seconds, chip, core) if self.status == 5 else [completed_with(self.status)]


_EXECUTION_FAULTS = {
    "timeout": ExecutionFault(5, "timed_out", "runtime"),
    "nan": ExecutionFault(1003, "completed_with_num_err", "numerical"),
    "oob": ExecutionFault(1006, "completed_with_err", "model"),
    "hw": ExecutionFault(6, "completed_with_err", "hardware"),
}


def is_injected(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``NEURON_EMULATOR_FAULT`` asks for this fault now."""
    return environ.get(FAULT, "") == name


def find_execution_fault(environ: Mapping[str, str] = os.environ) -> ExecutionFault | None:
    """Return how every execution fails now, or None."""
    return _EXECUTION_FAULTS.get(environ.get(FAULT, ""))


def validate_driver(instance: Instance | None, environ: Mapping[str, str]) -> Instance:
    """Return the instance if there is one and its driver suits it; raises ``StartFault``."""
    if is_injected("driver-missing", environ):
        raise StartFault(DRIVER_MISSING)
    version = _read_version(environ)
    if is_injected("driver-old", environ) or (version is not None and version < _OLDEST_DRIVER):
        raise StartFault(DRIVER_OLD)
    if instance is None or (instance.family == "inf1" and version is not None and version[:2] > _LAST_DRIVER_FOR_INF1):
        raise StartFault(NO_DEVICE)
    return instance


def _read_version(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    text = environ.get(DRIVER, "").strip()
    if not text:
        return None
    parts = text.split(".")
    if not all(part.isdecimal() for part in parts):
        raise StartFault(bad_setting(DRIVER, text, "numbers and dots, such as 2.24.13.0"))
    return tuple(int(part) for part in [*parts, "0"][: max(2, len(parts))])  # "2" is 2.0
