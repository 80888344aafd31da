"""Which cores a worker has: crash-safe leases on cores, one lock file for each, and the process bound to them.

A lease is an operating-system lock on an open file, so that a killed worker's cores are free the moment it is dead.
Where a target allows more than one worker to a core (``cpu`` does, a NeuronCore never), each core has several *places*;
second places are given out only when no first place is free, so that workers spread before they share.
"""

import fcntl
import json
import os
import re
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

from handlers.errors import NoCores

# Shared by every process of the host or container; a tmpfs where there is one, because locks need no disk.
LEASE_FOLDER_VARIABLE = "TORCHSERVE_NEURON_LEASES"
_LOCK_NAME = re.compile(r".+-[0-9]+-[0-9]+\.lock")  # kind, core, place
_NO_FOLLOW = os.O_CLOEXEC | os.O_NOFOLLOW
_REGISTRY_PATIENCE = 10.0  # seconds to wait for another process to finish its search, which takes milliseconds


@dataclass(frozen=True)
class Holder:
    """Who holds a core."""

    kind: str  # of core: the target's name
    core: int
    place: int  # 0 unless several workers share the core
    pid: int
    label: str  # the model, for people
    since: float  # seconds since 1970


class Lease:
    """A worker's right to a contiguous range of cores, until ``release`` or the end of the process."""

    def __init__(self, cores: Tuple[int, ...], place: int, files: List[int]) -> None:
        self.cores = cores
        self.place = place
        self._files = files
        _leases.append(self)

    def release(self) -> None:
        """Give the cores back; doing so twice is harmless."""
        while self._files:
            os.close(self._files.pop())
        if self in _leases:
            _leases.remove(self)


# A forked child shares its parent's locks; were it to keep them, the cores of a dead worker would stay taken for as
# long as the child lives.
_leases: List[Lease] = []


def _drop_leases() -> None:
    while _leases:
        _leases.pop().release()


os.register_at_fork(after_in_child=_drop_leases)


def take_lease(
    kind: str, count: int, *, host_cores: Sequence[int], places: int, label: str, folder: Optional[Path] = None
) -> Lease:
    """Return a lease on ``count`` contiguous cores of ``host_cores``, aligned to ``count``.

    ``places`` is how many workers may share a core. Raises ``NoCores`` that says who holds what.
    """
    folder = folder or lease_folder()
    with _registry(folder):
        for place in range(places):
            for cores in _aligned_ranges(host_cores, count):
                files = _try_lock(folder, kind, cores, place, label)
                if files is not None:
                    return Lease(cores, place, files)
        raise NoCores(_explain_no_cores(kind, count, host_cores, places, _list_holders(folder)))


def lease_holders(folder: Optional[Path] = None) -> List[Holder]:
    """Return who holds which cores on this host now, lowest core first."""
    folder = folder or lease_folder()
    with _registry(folder):
        return _list_holders(folder)


def lease_folder() -> Path:
    """Return the host's folder of lock files, made if need be; ``TORCHSERVE_NEURON_LEASES`` names another."""
    named = os.environ.get(LEASE_FOLDER_VARIABLE)
    shared = Path("/dev/shm")  # noqa: S108  opened without following links, see _open
    base = shared if os.access(str(shared), os.W_OK) else Path(tempfile.gettempdir())
    folder = Path(named) if named else base / "torchserve-neuron-leases"
    try:
        folder.mkdir(parents=True)
        # Like /tmp: every user may take a lease, nobody may remove another's file.
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    return folder


def host_cpus() -> List[int]:
    """Return the processors that this process may run on, lowest first."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def bind_process(cpus: Sequence[int]) -> None:
    """Let every thread of this process run on ``cpus`` only, those included that libraries have started already."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), cpus)
        except ProcessLookupError:
            continue  # it ended meanwhile


def free_ranges(host_cores: Sequence[int], count: int, held: Collection[int]) -> List[Tuple[int, ...]]:
    """Return the ranges that leases of ``count`` cores could take while the cores ``held`` are taken."""
    return [group for group in _aligned_ranges(host_cores, count) if not set(group) & set(held)]


def _aligned_ranges(host_cores: Sequence[int], count: int) -> List[Tuple[int, ...]]:
    """Every range of ``count`` consecutive core numbers that starts at a multiple of ``count`` in the host's list."""
    groups = [tuple(host_cores[start : start + count]) for start in range(0, len(host_cores), count)]
    return [group for group in groups if len(group) == count and group[-1] - group[0] == count - 1]


def _try_lock(folder: Path, kind: str, cores: Tuple[int, ...], place: int, label: str) -> Optional[List[int]]:
    files: List[int] = []
    for core in cores:
        descriptor = _open(folder / f"{kind}-{core}-{place}.lock")
        files.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for each in files:
                os.close(each)
            return None
    for core, descriptor in zip(cores, files):
        holder = {"kind": kind, "core": core, "place": place, "pid": os.getpid(), "label": label, "since": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return files


def _list_holders(folder: Path) -> List[Holder]:
    holders = []
    for path in folder.iterdir():
        if not _LOCK_NAME.fullmatch(path.name):
            continue
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holders.append(_read_holder(path, os.pread(descriptor, 4096, 0)))
        finally:
            os.close(descriptor)
    return sorted(holders, key=lambda holder: (holder.kind, holder.place, holder.core))


def _read_holder(path: Path, content: bytes) -> Holder:
    kind, core, place = path.stem.rsplit("-", 2)
    try:
        known: Dict[str, Any] = json.loads(content.decode("utf-8"))
        pid, label, since = int(known["pid"]), str(known["label"]), float(known["since"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        # Every user may write here, and a holder may be seen between taking its lock and saying who it is.
        pid, label, since = 0, "unknown", 0.0
    return Holder(kind, int(core), int(place), pid, label, since)


@contextmanager
def _registry(folder: Path) -> Iterator[None]:
    """Let one process at a time search for cores, so that two that search do not take halves of the same range."""
    descriptor = _open(folder / "registry.lock")
    try:
        deadline = time.monotonic() + _REGISTRY_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NoCores(
                        f"another process has held {folder / 'registry.lock'} for {_REGISTRY_PATIENCE:.0f} s; find it "
                        f"with 'fuser {folder / 'registry.lock'}' and end it"
                    ) from None
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return _open_or_create(path)
    except OSError as exc:
        raise NoCores(
            f"the lease file {path} cannot be opened ({exc.strerror}); remove it if it is no plain file, or name "
            f"another folder with {LEASE_FOLDER_VARIABLE}"
        ) from exc


def _open_or_create(path: Path) -> int:
    # Opened before it is created: in a sticky folder the kernel refuses O_CREAT on another user's file.
    try:
        return os.open(str(path), os.O_RDWR | _NO_FOLLOW)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor
    except FileExistsError:
        return os.open(str(path), os.O_RDWR | _NO_FOLLOW)


def _explain_no_cores(kind: str, count: int, host_cores: Sequence[int], places: int, holders: List[Holder]) -> str:
    held = ", ".join(f"core {each.core} by pid {each.pid} ({each.label})" for each in holders if each.kind == kind)
    shared = f", each by at most {places} workers" if places > 1 else ""
    return (
        f"no {count} contiguous free core(s) of kind {kind}: this host has {len(host_cores)} "
        f"({', '.join(map(str, host_cores))}){shared}; held: {held or 'none'}. Ask for fewer workers "
        f"(workers x {count} core(s) must fit into {len(host_cores)} x {places}), or stop one that holds a core"
    )
