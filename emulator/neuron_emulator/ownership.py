"""Which process owns which cores of the emulated host: one lock for each core, held until the process ends.

The kernel frees a lock when its process dies, however it dies, so that no core is ever lost and none has two owners
(AWS Neuron docs: neuron-runtime/guides/configuration-guide.rst, a core belongs to one process until that ends).
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from neuron_emulator.descriptors import close_lock, open_lock, try_lock
from neuron_emulator.environment import Settings
from neuron_emulator.instances import Instance
from neuron_emulator.messages import LogLine, StartFault, cores_taken

_REGISTRY_PATIENCE = 10.0  # seconds to wait for another process to finish its search, which takes milliseconds
# A child that is being forked while its parent dies shares the lock until it has run its first instructions.
_DEATH_PATIENCE = 2.0
_PAUSE = 0.005


@dataclass(frozen=True)
class Owner:
    """Who owns a core."""

    core: int
    first: int  # the first of the owner's cores, which names its record
    pid: int


class Ownership:
    """A process's right to contiguous cores, until ``release`` or the end of the process."""

    def __init__(self, cores: tuple[int, ...], locks: list[int]) -> None:
        self.cores = cores
        self._locks = locks

    def release(self) -> None:
        """Give the cores back; doing so twice is harmless."""
        while self._locks:
            close_lock(self._locks.pop())


def take_cores(settings: Settings, instance: Instance, folder: Path) -> Ownership:
    """Return the ownership of the cores that the settings ask for.

    A number gets the first free contiguous cores, zero all of the host. Raises ``StartFault`` if they are not free.
    """
    deadline = time.monotonic() + _DEATH_PATIENCE
    while True:
        with lock_registry(folder):
            # Before the try: a dead owner's locks can go while we look, and then no one would seem to have held them.
            abandoned = any(not _is_alive(owner.pid) for owner in list_owners(folder))
            ownership = _try_cores(settings, instance, folder)
            if isinstance(ownership, Ownership):
                return ownership
        if not abandoned or time.monotonic() > deadline:
            raise StartFault(ownership)
        time.sleep(_PAUSE)


def list_owners(folder: Path) -> list[Owner]:
    """Return who owns which core, lowest core first; call it inside ``lock_registry``."""
    owners = []
    for path in folder.glob("core-*.lock"):
        descriptor = open_lock(path)
        try:
            if not try_lock(descriptor):
                owners.append(_read_owner(path, os.pread(descriptor, 4096, 0)))
        finally:
            close_lock(descriptor)
    return sorted(owners, key=lambda owner: owner.core)


@contextmanager
def lock_registry(folder: Path) -> Iterator[None]:
    """Let one process at a time search for cores, so that two do not take halves of the same range.

    Raises ``StartFault`` if another process keeps the lock for ten seconds.
    """
    path = folder / "registry.lock"
    descriptor = open_lock(path)
    try:
        deadline = time.monotonic() + _REGISTRY_PATIENCE
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                text = f"Another process has held {path} for {_REGISTRY_PATIENCE:.0f} s: find it with 'fuser {path}'"
                raise StartFault(LogLine("NRT:nrt_allocate_neuron_cores", text))
            time.sleep(_PAUSE)
        yield
    finally:
        close_lock(descriptor)


def _try_cores(settings: Settings, instance: Instance, folder: Path) -> Ownership | LogLine:
    """Return the ownership, or the line that says why not."""
    wanted = settings.visible or tuple(range(instance.cores))
    locks = {core: lock for core in wanted if core < instance.cores and (lock := _try_core(folder, core)) is not None}
    if settings.visible:
        chosen, requested, available = settings.visible, f"nc{wanted[0]}-nc{wanted[-1]}", len(locks)
    else:
        count = settings.count or instance.cores
        runs = _free_runs(sorted(locks))
        available = max((len(run) for run in runs), default=0)
        chosen = next((run[:count] for run in runs if len(run) >= count), tuple(range(count)))
        requested = str(count)
    enough = set(chosen) <= set(locks)
    for core in set(locks) - set(chosen if enough else ()):
        close_lock(locks[core])
    if not enough:
        return cores_taken(requested, available, family=instance.family)
    for core in chosen:
        _write_owner(locks[core], Owner(core, chosen[0], os.getpid()))
    return Ownership(chosen, [locks[core] for core in chosen])


def _free_runs(free: list[int]) -> list[tuple[int, ...]]:
    """Return the longest ranges of consecutive numbers, lowest first."""
    runs: list[list[int]] = []
    for core in free:
        if runs and runs[-1][-1] == core - 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return [tuple(run) for run in runs]


def _try_core(folder: Path, core: int) -> int | None:
    descriptor = open_lock(folder / f"core-{core}.lock")
    if try_lock(descriptor):
        return descriptor
    close_lock(descriptor)
    return None


def _write_owner(descriptor: int, owner: Owner) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(owner)).encode(), 0)


def _read_owner(path: Path, content: bytes) -> Owner:
    core = int(path.stem.removeprefix("core-"))
    try:
        known = json.loads(content)
        return Owner(core, int(known["first"]), int(known["pid"]))
    except (ValueError, TypeError, LookupError):
        return Owner(core, core, 0)  # another program holds the file's lock


def _is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"
