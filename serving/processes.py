"""Ending processes: asked first, killed where they do not listen."""

import contextlib
import signal
import time

import psutil

from serving.errors import ServerError

_PATIENCE = 15.0  # seconds between asking a process to end and ending it


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
