"""Ending processes: asked first, killed where they do not listen."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from serving.errors import ServerError

_PATIENCE = 15.0  # seconds between asking a process to end and ending it
_detached: "list[subprocess.Popen[bytes]]" = []  # that this process started and has not seen end


def start_detached(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None, output: BinaryIO | None = None
) -> int:
    """Start a process that outlives this one and its terminal, and return its pid; raise ``OSError``."""
    collect_detached()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output or subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    _detached.append(process)
    return process.pid


def collect_detached() -> None:
    """Let those of the detached processes that have ended go; they would stay as zombies while this process lives."""
    _detached[:] = [each for each in _detached if each.poll() is None]


def end_tree(process: psutil.Process) -> None:
    """End a process and its children: asked first, killed after 15 seconds; raise ``ServerError`` if one stays.

    TorchServe closes its ports and cuts every connection at once, then idles for two seconds: it is not waited for.
    """
    tree = [process, *_children(process)]
    served = _listens(process)
    _signal([process], signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and _wait([process], 0.1) and not (served and not _listens(process)):
        pass
    _signal(_wait([process], 0.2), signal.SIGKILL)
    # Workers end by themselves when their socket closes.
    _signal(_wait(tree, 3), signal.SIGKILL)
    alive = _wait(tree, _PATIENCE)
    collect_detached()
    if alive:
        raise ServerError(
            f"the processes {', '.join(str(each.pid) for each in alive)} do not end; look at them with ps"
        )


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _listens(process: psutil.Process) -> bool:
    try:
        return any(each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp"))
    except psutil.Error:
        return False


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return which processes are still alive after at most ``seconds``.

    A zombie counts as dead: in a container whose first process collects no orphans, the server stays one.
    """
    deadline = time.monotonic() + seconds
    while True:
        alive = [process for process in processes if _is_alive(process)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
