"""From settings to something that can be started: archives checked, plan made, files written."""

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .archives import Archive, choose_archives, find_archives, read_archive
from .faults import Fault
from .guarding import prepare_guard
from .host import Host, look_around
from .planning import Memory, Plan, make_plan
from .settings import GIB, Settings, is_loopback
from .torchserve import (
    Release,
    choose_tokens,
    find_java,
    find_release,
    make_command,
    render_config,
    socket_path,
)

_SPARE = 50 * 2**20  # bytes for sockets, bytecode, request bodies
# Below the writable folder. All but the archives are made anew at each start.
_FOLDERS = ("temporary", "logs", "leases", "emulator")


class Prepared(NamedTuple):
    """What is about to be served."""

    settings: Settings
    release: Release
    host: Host
    plan: Plan
    tokens: bool  # TorchServe's own
    notes: Tuple[str, ...]  # for the log


def prepare(settings: Settings, environment: Mapping[str, str]) -> Prepared:
    """Return the plan for this container; raise ``Fault`` with all that keeps it from serving. Writes nothing."""
    release = find_release()
    tokens = choose_tokens(settings, release)
    find_java(environment)
    host = look_around(environment)
    if host.cores and host.cores != tuple(range(len(host.cores))):
        # The workers' leases start at core 0, whatever the variable says.
        raise Fault(
            f"this container was given the NeuronCores {', '.join(map(str, host.cores))} of a chip that it shares, and "
            "workers take cores from 0 on; give it whole devices (in Kubernetes aws.amazon.com/neuron)"
        )
    archives = choose_archives([read_archive(path) for path in find_archives(settings.store)], settings.models)
    notes = _verify_signatures(archives, settings.trusted)
    written = sum(archive.unpacked for archive in archives)
    written += sum(archive.path.stat().st_size for archive in archives) if settings.trusted else 0
    memory = Memory(
        limit=settings.memory_limit or host.memory,
        heap=settings.heap,
        worker=settings.worker_memory,
        written=written if _is_in_memory(settings.folder) else 0,
    )
    plan = make_plan(archives, host, memory, settings.workers)
    return Prepared(settings, release, host, plan, tokens, (*notes, *_warn(settings, release, tokens)))


def install(prepared: Prepared, environment: Mapping[str, str]) -> Tuple[List[str], Optional[List[str]]]:
    """Write the server's files; return the commands of TorchServe and of the guard, None without one.

    With trusted keys the server reads copies that were verified while they were written: whoever may write to the model
    store cannot exchange an archive after its check.
    """
    settings = prepared.settings
    _make_folders(settings, sum(crew.archive.unpacked for crew in prepared.plan.crews))
    crews = prepared.plan.crews
    if settings.trusted is not None:
        store = settings.folder / "store"
        archives = [_copy_verified(crew.archive, store, settings.trusted) for crew in crews]
        crews = tuple(crew._replace(archive=archive) for crew, archive in zip(crews, archives))
    config = settings.folder / "config.properties"
    config.write_text(render_config(settings, crews, tokens=prepared.tokens))
    command = make_command(
        settings,
        prepared.release,
        crews[0].archive.path.parent,
        java=find_java(environment),
        python=sys.executable,
    )
    guard = None
    if settings.guard:
        guard = prepare_guard(settings, [crew.archive.name for crew in crews], socket_path(settings.folder))
    return command, guard


def _verify_signatures(archives: Sequence[Archive], trusted: Optional[Path]) -> List[str]:
    if trusted is None:
        return []
    return [f"{archive.path.name} is signed by key {_verify(archive.path, trusted)}" for archive in archives]


def _verify(path: Path, trusted: Path, copy: Optional[Path] = None) -> str:
    try:
        from . import signatures

        return signatures.verify_archive(path, [trusted], copy=copy)
    except ImportError as exc:
        raise Fault(
            f"TSN_TRUSTED_KEYS={trusted}, and signatures cannot be verified: {exc}; install cryptography"
        ) from exc
    except signatures.SignatureFault as exc:
        raise Fault(f"{exc} (TSN_TRUSTED_KEYS={trusted})") from exc


def _copy_verified(archive: Archive, store: Path, trusted: Path) -> Archive:
    store.mkdir(exist_ok=True)
    copy = store / archive.path.name
    _verify(archive.path, trusted, copy)
    # Read again: what was planned for and what is served must be the same file.
    again = read_archive(copy)
    if again._replace(path=archive.path) != archive:
        raise Fault(f"{archive.path} was exchanged while the container started")
    return again


def _make_folders(settings: Settings, unpacked: int) -> None:
    folder = settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*_FOLDERS, "store", "guard"):
            shutil.rmtree(str(folder / name), ignore_errors=True)  # of a container that was restarted
        for name in _FOLDERS:
            (folder / name).mkdir()
        for name in ("serving.json", "key_file.json", "inference.sock"):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    except OSError as exc:
        raise Fault(
            f"the folder {folder} cannot be written by user {os.geteuid()} ({exc}); under a read-only root give it a "
            f"file system: --tmpfs {folder}:rw,exec,mode=1777"
        ) from exc
    copies = unpacked if settings.trusted else 0
    free = shutil.disk_usage(str(folder)).free
    if free < unpacked + copies + _SPARE:
        parts = f"archives {unpacked / GIB:.2f}" + (f" + verified copies {copies / GIB:.2f}" if copies else "")
        raise Fault(
            f"{folder} has {free / GIB:.2f} GiB free, and unpacked {parts} + {_SPARE / GIB:.2f} GiB of other files do "
            "not fit: give it more (--tmpfs ...,size=), or serve fewer models (TSN_MODELS)"
        )


def _is_in_memory(folder: Path) -> bool:
    """Whether what is written there counts as memory: a tmpfs, by its longest mount point in /proc/mounts."""
    best, kind = "", ""
    try:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, point, found = line.split()[:3]
            inside = point == "/" or str(folder) == point or str(folder).startswith(point + "/")
            if inside and len(point) >= len(best):
                best, kind = point, found
    except (OSError, ValueError):
        return False
    return kind in ("tmpfs", "ramfs")


def _warn(settings: Settings, release: Release, tokens: bool) -> List[str]:
    notes = []
    if tokens:
        notes.append(
            f"TorchServe's tokens are on; its keys are in {settings.folder / 'key_file.json'}, last "
            f"{settings.token_minutes} minutes and change at each start: send Authorization: Bearer KEY of 'inference'"
        )
    elif not settings.guard:
        notes.append(f"NO TOKENS: TorchServe {release.version} on {settings.bind}:{settings.port} answers anybody")
    elif settings.token_file is None:
        notes.append(f"NO TOKENS: the guard on {settings.bind}:{settings.port} lets anybody ask for predictions")
    if not is_loopback(settings.metrics_bind):
        notes.append(f"metrics on {settings.metrics_bind}:{settings.metrics_port} ask for no token: let nobody else in")
    return notes
