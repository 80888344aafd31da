"""The emulated Neuron Runtime of this process: its cores, the models on them, what they do and how they fail.

A process takes its cores at the first use and keeps them until it ends or closes the runtime. Example::

    runtime = get_runtime()
    [copy] = runtime.load(Need("resnet", "inf1", cores=1, bytes_per_core=50_000_000))
    outputs = runtime.execute(copy, lambda: module(image), bytes_in=4, bytes_out=4, items=1, padded=0)
"""

import atexit
import itertools
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from neuron_emulator import faults, messages
from neuron_emulator.allocation import choose_cores
from neuron_emulator.descriptors import call_in_children
from neuron_emulator.environment import Settings, read_settings, registry_folder
from neuron_emulator.host import describe_host as _describe_host
from neuron_emulator.instances import GIB, Instance, current_instance
from neuron_emulator.log import write_kernel_line, write_log
from neuron_emulator.messages import LogLine, StartFault
from neuron_emulator.ownership import Ownership, take_cores
from neuron_emulator.records import Record

T = TypeVar("T")
# Which hosts run what was compiled for a family; trn1 has inf2's cores.
_RUNS_ON = {"inf1": ("inf1",), "inf2": ("inf2", "trn1", "trn1n")}
# AWS Neuron docs: neuron-runtime/guides/configuration-guide.rst, NEURON_RT_ALLOW_LEGACY_NEFF: an older artefact on a
# newer chip. For the step from inf2 to trn2 only: the setting is younger than the end of inf1.
_RUNS_ON_IF_LEGACY = {"inf2": ("trn2",)}
_model_ids = itertools.count(10001)


@dataclass(frozen=True)
class Need:
    """What one copy of a compiled graph takes."""

    name: str
    family: str  # "inf1" or "inf2": what it was compiled for
    cores: int  # contiguous ones, more than 1 for a pipeline
    bytes_per_core: int  # of device memory


@dataclass
class Loaded:
    """One copy of a compiled graph on its cores."""

    model_id: int
    need: Need
    cores: tuple[int, ...]  # numbered from 0 inside this process


class Runtime:
    """The cores of this process, and the models on them. Use ``get_runtime``."""

    def __init__(self, instance: Instance, settings: Settings, ownership: Ownership, record: Record) -> None:
        self.cores = ownership.cores  # of the host, contiguous
        self.instance = instance
        self._settings = settings
        self._ownership = ownership
        self._record = record
        self._models: dict[int, Loaded] = {}
        self._lock = threading.RLock()
        self._core_locks = [threading.RLock() for _ in ownership.cores]
        self._state = ""  # "child" after a fork, "closed" after close

    def load(self, need: Need, *, start_nc: int = -1, nc_count: int = -1) -> list[Loaded]:
        """Return one copy on the least-used cores, or ``nc_count // need.cores`` copies side by side.

        ``start_nc`` is the first core, numbered from 0 inside this process. Raises ``ValueError`` for a bad
        ``nc_count``, and ``RuntimeError`` with the runtime's status if the copies cannot be loaded; then none is.
        """
        self._refuse_state(messages.load_error)
        with self._lock:
            self._validate_family(need)
            self._validate_cores(need)
            places = choose_cores(self._count_loads(), need.cores, start_nc=start_nc, nc_count=nc_count)
            copies: list[Loaded] = []
            try:
                for cores in places:
                    copies.append(self._load_copy(need, cores))
            except RuntimeError:
                for copy in copies:
                    self.unload(copy)
                raise
            return copies

    def unload(self, loaded: Loaded) -> None:
        """Give a copy's device memory back; the cores stay with the process. Doing so twice is harmless."""
        with self._lock:
            if self._models.pop(loaded.model_id, None) is not None and not self._state:
                self._record.count_unload(self._describe_models())

    def execute(
        self, loaded: Loaded, run: Callable[[], T], *, bytes_in: int, bytes_out: int, items: int, padded: int
    ) -> T:
        """Return what ``run()`` returns, run while no other model runs on the copy's cores; count it.

        ``bytes_in`` and ``bytes_out`` are what a real call would move to and from the device; ``items`` and ``padded``
        are rows of the batch. Raises ``RuntimeError`` with a status of NRT for injected faults, and in a forked child.
        """
        self._refuse_state(messages.execute_error)
        if loaded.model_id not in self._models:
            raise messages.execute_error(3)
        cores = [self.cores[each] for each in loaded.cores]
        with ExitStack() as stack:
            # Always in the order of the cores: two overlapping pipelines cannot wait for one another.
            for core in loaded.cores:
                stack.enter_context(self._core_locks[core])
            self._inject_fault(loaded)
            began = time.perf_counter()
            try:
                result = run()
            except BaseException:
                self._record.count_failure("completed_with_err", "generic")
                raise
            seconds = time.perf_counter() - began
            self._record.count_execution(
                cores, bytes_in=bytes_in, bytes_out=bytes_out, items=items, padded=padded, seconds=seconds
            )
        return result

    def count_numerical_error(self, loaded: Loaded) -> None:
        """Count the last execution of a copy as one that gave NaN, and log it (``completed_with_num_err``)."""
        _log(messages.completed_with(1003))
        self._record.count_failure("completed_with_num_err", "numerical", completed=True)

    def close(self) -> None:
        """Give the cores back, as ``nrt_close`` does; in a forked child there are none to give."""
        with self._lock:
            if self._state:
                return
            self._state = "closed"
            self._models.clear()
            self._record.close()
            self._ownership.release()

    def is_child(self) -> bool:
        """Return whether this is a forked child's copy."""
        return self._state == "child"

    def mark_child(self) -> None:
        """Take note that this is a forked child's copy, which can neither load nor execute."""
        self._state = "child"
        # Another thread of the parent may have held these at the fork; it does not exist here.
        self._lock = threading.RLock()

    def flush_record(self) -> None:
        """Write the counts to the host's folder now."""
        if not self._state:
            self._record.flush()

    def _refuse_state(self, error: Callable[[int], RuntimeError]) -> None:
        if self._state == "child":
            # AWS's text for the exception is not documented; the log's is.
            _log(messages.FORKED)
            raise error(13)
        if self._state == "closed":
            raise error(14)

    def _validate_family(self, need: Need) -> None:
        family = self.instance.family
        legacy = _RUNS_ON_IF_LEGACY.get(need.family, ()) if self._settings.allow_legacy else ()
        if family in _RUNS_ON.get(need.family, ()) or family in legacy:
            return
        _log(messages.wrong_family(need.name, need.family, family), messages.failed_load(need.name, 2))
        raise messages.load_error(2)

    def _validate_cores(self, need: Need) -> None:
        if need.cores > len(self.cores):
            _log(messages.missing_core(len(self.cores)), messages.failed_load(need.name, 2))
            raise messages.load_error(9)

    def _load_copy(self, need: Need, cores: tuple[int, ...]) -> Loaded:
        for core in cores:
            self._validate_memory(need, core)
        loaded = Loaded(next(_model_ids), need, cores)
        self._models[loaded.model_id] = loaded
        self._record.count_load(self._describe_models(), [self.cores[core] for core in cores])
        return loaded

    def _validate_memory(self, need: Need, core: int) -> None:
        gib = self._settings.memory_gib
        total = int((self.instance.device_gib_per_core if gib is None else gib) * GIB)
        occupied = sum(each.need.bytes_per_core for each in self._models.values() if core in each.cores)
        if occupied + need.bytes_per_core <= total and not faults.is_injected("oom"):
            return
        chip, on_chip = divmod(self.cores[core], self.instance.cores_per_chip)
        if self.instance.family == "inf1":
            needed = need.bytes_per_core
            write_kernel_line(messages.pool_exhausted(chip, on_chip, total=total, occupied=occupied, needed=needed))
        else:
            _log(messages.memory_exhausted(chip, on_chip, need.bytes_per_core))
        _log(messages.failed_load(need.name, 4))
        raise messages.load_error(4)

    def _inject_fault(self, loaded: Loaded) -> None:
        fault = faults.find_execution_fault()
        if fault is None:
            return
        chip, on_chip = divmod(self.cores[loaded.cores[0]], self.instance.cores_per_chip)
        _log(*fault.log_lines(self._settings.timeout_seconds, chip, on_chip))
        self._record.count_failure(fault.outcome, fault.error)
        raise messages.execute_error(fault.status)

    def _count_loads(self) -> list[int]:
        return [sum(core in each.cores for each in self._models.values()) for core in range(len(self.cores))]

    def _describe_models(self) -> list[dict[str, object]]:
        return [
            {
                "name": each.need.name,
                "model_id": each.model_id,
                "family": each.need.family,
                "cores": [self.cores[core] for core in each.cores],
                "bytes_per_core": each.need.bytes_per_core,
            }
            for each in self._models.values()
        ]


class _Process:
    """The runtime of this process, if it has started."""

    runtime: Runtime | None = None
    lock = threading.RLock()


def get_runtime() -> Runtime:
    """Return this process's runtime; the first call reads the environment and takes the cores.

    Raises ``RuntimeError`` with AWS's text, after a line on standard error, if there is no device, no driver or no free
    core; ``ValueError`` if ``NEURON_EMULATOR_INSTANCE`` names no instance. In a forked child of a process whose runtime
    had started, what it returns refuses to load and execute.
    """
    with _Process.lock:
        if _Process.runtime is None:
            _Process.runtime = _start()
        return _Process.runtime


def reset_runtime() -> None:
    """Close this process's runtime and forget it: the next ``get_runtime`` starts anew, but not in a forked child."""
    with _Process.lock:
        if _Process.runtime is not None and not _Process.runtime.is_child():
            _Process.runtime.close()
            _Process.runtime = None


def describe_host() -> dict[str, object]:
    """Return what ``neuron_emulator.host.describe_host`` does, with this process's counts up to date."""
    with _Process.lock:
        if _Process.runtime is not None:
            _Process.runtime.flush_record()
    return _describe_host()


def _start() -> Runtime:
    instance = current_instance()
    try:
        settings = read_settings()
        found = faults.validate_driver(instance, os.environ)
        folder = registry_folder()
        ownership = take_cores(settings, found, folder)
    except StartFault as fault:
        _log(fault.line)
        raise RuntimeError(messages.CANNOT_START) from None
    record = Record(folder, tag=settings.tag, instance=found.name, cores=ownership.cores)
    return Runtime(found, settings, ownership, record)


def _log(*lines: LogLine) -> None:
    for line in lines:
        write_log("ERROR", line.place, line.text)


def _enter_child() -> None:
    _Process.lock = threading.RLock()
    if _Process.runtime is not None:
        _Process.runtime.mark_child()


call_in_children(_enter_child)
atexit.register(reset_runtime)
