"""What the runtime counts for one process, and the file in which every tool of the host can read it."""

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_PERIOD = 1.0  # seconds between two writes while models run


@dataclass
class CoreCounts:
    """What one core has done since the process took it."""

    loads: int = 0
    executions: int = 0
    bytes_in: int = 0  # from the host to the device
    bytes_out: int = 0
    items: int = 0  # in batches, without padding
    padded: int = 0  # rows computed for nothing
    busy_seconds: float = 0.0  # of this CPU's time; says nothing about a chip
    memory_bytes: int = 0  # of the models loaded now


@dataclass
class ProcessCounts:
    """What one process has done since its runtime started."""

    pid: int
    command: str
    tag: str  # NEURON_PROCESS_TAG, or the process number
    instance: str
    cores: tuple[int, ...]  # of the host
    started: float  # seconds since 1970
    loads: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)  # as neuron-monitor names them: completed, timed_out ...
    errors: dict[str, int] = field(default_factory=dict)  # likewise: generic, numerical, runtime, hardware ...
    models: list[dict[str, Any]] = field(default_factory=list)  # loaded now: name, model_id, family, cores, bytes
    per_core: dict[int, CoreCounts] = field(default_factory=dict)  # by the host's number of the core


class Record:
    """The counts of this process and its file, written anew at each load and at most once a second otherwise."""

    def __init__(self, folder: Path, *, tag: str, instance: str, cores: tuple[int, ...]) -> None:
        command = _read_command()
        self.counts = ProcessCounts(os.getpid(), command, tag, instance, cores, time.time())
        self.counts.per_core = {core: CoreCounts() for core in cores}
        self._path = record_path(folder, cores[0])
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False
        self._written = 0.0  # when, on the monotonic clock
        self._write()

    def count_load(self, models: list[dict[str, Any]], cores: Sequence[int]) -> None:
        """Count the load of one copy on cores of the host; ``models`` are all that are loaded now."""
        with self._lock:
            self.counts.loads += 1
            for core in cores:
                self.counts.per_core[core].loads += 1
            self._set_models(models)

    def count_unload(self, models: list[dict[str, Any]]) -> None:
        """Take note of the models that are still loaded."""
        with self._lock:
            self._set_models(models)

    def count_execution(
        self, cores: Sequence[int], *, bytes_in: int, bytes_out: int, items: int, padded: int, seconds: float
    ) -> None:
        """Count a completed execution; what is moved is counted at the first core of a pipeline."""
        with self._lock:
            for core in cores:
                self.counts.per_core[core].executions += 1
                self.counts.per_core[core].busy_seconds += seconds
            first = self.counts.per_core[cores[0]]
            first.bytes_in += bytes_in
            first.bytes_out += bytes_out
            first.items += items
            first.padded += padded
            _add(self.counts.outcomes, "completed", 1)
            self._write_soon()

    def count_failure(self, outcome: str, error: str, *, completed: bool = False) -> None:
        """Count an execution that failed; ``completed`` if it has been counted as completed before."""
        with self._lock:
            _add(self.counts.outcomes, outcome, 1)
            _add(self.counts.errors, error, 1)
            if completed:
                _add(self.counts.outcomes, "completed", -1)
            self._write_soon()

    def close(self) -> None:
        """Remove the file: the process gives its cores back."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Write the file now."""
        with self._lock:
            self._write()

    def _set_models(self, models: list[dict[str, Any]]) -> None:
        self.counts.models = models
        for core, counts in self.counts.per_core.items():
            counts.memory_bytes = sum(model["bytes_per_core"] for model in models if core in model["cores"])
        self._write()

    def _write_soon(self) -> None:
        if self._timer is not None:
            return
        remaining = self._written + _PERIOD - time.monotonic()
        if remaining <= 0:
            self._write()
            return
        self._timer = threading.Timer(remaining, self._write_late)
        self._timer.daemon = True
        self._timer.start()

    def _write_late(self) -> None:
        with self._lock:
            self._timer = None
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._closed:
            return
        fresh = self._path.with_suffix(".new")
        # A full or vanished folder must not fail a request: the counts go on in memory.
        with suppress(OSError):
            fresh.write_text(json.dumps(asdict(self.counts)), encoding="utf-8")
            fresh.replace(self._path)


def record_path(folder: Path, first_core: int) -> Path:
    """Return the file of the process whose first core this is; a core has one owner, so the file has one writer."""
    return folder / f"record-{first_core}.json"


def read_record(folder: Path, first_core: int) -> ProcessCounts | None:
    """Return the counts of the process whose first core this is, or None if it has not written any."""
    try:
        known = json.loads(record_path(folder, first_core).read_text(encoding="utf-8"))
        known["cores"] = tuple(known["cores"])
        known["per_core"] = {int(core): CoreCounts(**counts) for core, counts in known["per_core"].items()}
        return ProcessCounts(**known)
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _add(counts: dict[str, int], name: str, amount: int) -> None:
    counts[name] = counts.get(name, 0) + amount


def _read_command() -> str:
    try:
        return Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
