"""What a process asks the runtime for: the variables of ``NEURON_RT_*``, read once when the runtime starts."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from neuron_emulator.messages import NOT_CONTIGUOUS, StartFault, bad_setting

VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"
NUM_CORES = "NEURON_RT_NUM_CORES"
EXEC_TIMEOUT = "NEURON_RT_EXEC_TIMEOUT"
LEGACY_NEFF = "NEURON_RT_ALLOW_LEGACY_NEFF"
PROCESS_TAG = "NEURON_PROCESS_TAG"
FAULT = "NEURON_EMULATOR_FAULT"
MEMORY = "NEURON_EMULATOR_MEMORY_GIB_PER_CORE"
DRIVER = "NEURON_EMULATOR_DRIVER_VERSION"
FOLDER = "NEURON_EMULATOR_FOLDER"

# AWS's pages disagree (30, 2 or 600 s); the table of the configuration guide has 30.
_DEFAULT_TIMEOUT = 30
_CORE_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_MOST_CORES = 4096  # a range beyond this is a slip of the keyboard, not a host


@dataclass(frozen=True)
class Settings:
    """What this process wants of the runtime."""

    visible: tuple[int, ...] | None  # exactly these cores of the host; None if only a number is asked for
    count: int  # how many cores; 0 for all
    tag: str  # the process's name in monitoring
    timeout_seconds: int  # of one execution
    allow_legacy: bool  # run what was compiled for the generation before
    memory_gib: float | None  # per core, in place of the instance's


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Return what the environment asks for; raises ``StartFault`` for what cannot be read.

    ``NEURON_RT_VISIBLE_CORES`` wins over ``NEURON_RT_NUM_CORES``
    (AWS Neuron docs: neuron-runtime/guides/configuration-guide.rst).
    """
    visible = environ.get(VISIBLE_CORES, "").strip()
    return Settings(
        visible=parse_cores(visible) if visible else None,
        count=0 if visible else _read_number(environ, NUM_CORES, 0),
        tag=environ.get(PROCESS_TAG, "")[:255] or str(os.getpid()),
        timeout_seconds=_read_number(environ, EXEC_TIMEOUT, _DEFAULT_TIMEOUT),
        allow_legacy=environ.get(LEGACY_NEFF, "").lower() in ("1", "true"),
        memory_gib=_read_memory(environ),
    )


def parse_cores(text: str) -> tuple[int, ...]:
    """Return the cores of ``3``, ``1-3`` or ``0,1,2-4``; they must rise one by one.

    ``3,5,6`` is refused (AWS Neuron docs: neuron-runtime/guides/configuration-guide.rst). Raises ``StartFault``.
    """
    compact = text.replace(" ", "")
    if not _CORE_LIST.fullmatch(compact):
        raise StartFault(bad_setting(VISIBLE_CORES, text, "a core, a range or a list: 3, 1-3 or 0,1,2-4"))
    cores: list[int] = []
    for part in compact.split(","):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if end < begin or end - begin >= _MOST_CORES:
            raise StartFault(bad_setting(VISIBLE_CORES, text, "ranges that rise, such as 1-3"))
        cores.extend(range(begin, end + 1))
    if any(after != before + 1 for before, after in pairwise(cores)):
        raise StartFault(NOT_CONTIGUOUS)
    return tuple(cores)


def registry_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that stands for the host, made if need be: locks of cores and records of processes.

    ``NEURON_EMULATOR_FOLDER`` names it; otherwise each user has one host. Raises ``PermissionError`` if the folder of
    this user belongs to another.
    """
    named = environ.get(FOLDER)
    shared = Path("/dev/shm")  # noqa: S108  a folder of the user's own, see below
    base = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    folder = Path(named) if named else base / f"neuron-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not named and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: name a folder of your own with {FOLDER}")
    return folder


def _read_number(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise StartFault(bad_setting(variable, text, "a whole number that is not negative"))
    return int(text)


def _read_memory(environ: Mapping[str, str]) -> float | None:
    text = environ.get(MEMORY, "").strip()
    if not text:
        return None
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < float("inf"):
        raise StartFault(bad_setting(MEMORY, text, "GiB, such as 2 or 0.5"))
    return gib
