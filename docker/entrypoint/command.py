"""The commands: ``serve`` (default), ``plan``, ``healthcheck``; the only place that prints and ends."""

import os
import signal
import sys
import time
from typing import List, Optional, Sequence, Tuple

from .asking import Served, Server, write_served
from .children import Children, describe_status, exit_status
from .draining import SETTLE, drain
from .faults import Fault
from .health import find_faults
from .preparing import Prepared, install, prepare
from .settings import read_settings
from .torchserve import make_environment

_REFUSED = 2  # exit status where nothing was started
_LOST = 3  # exit status after a stop that cut requests off
_PATIENCE = 10.0  # seconds for TorchServe to end by itself; it takes about four
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_USAGE = "usage: python entrypoint [serve | plan | healthcheck]; settings are environment variables TSN_..."


def main(arguments: Sequence[str]) -> int:
    """Return the exit status of a command."""
    command = arguments[0] if arguments else "serve"
    if len(arguments) > 1 or command not in ("serve", "plan", "healthcheck"):
        _say(f"{' '.join(arguments)!r} is no command. {_USAGE}")
        return _REFUSED
    try:
        settings = read_settings(os.environ)
        if command == "healthcheck":
            return _report_health(find_faults(settings))
        prepared = prepare(settings, os.environ)
        _tell(prepared)
        return 0 if command == "plan" else _serve(prepared)
    except Fault as exc:
        _say(f"refused: {exc}")
        return _REFUSED


def _report_health(faults: List[str]) -> int:
    for fault in faults:
        sys.stdout.write(fault + "\n")
    return 1 if faults else 0


def _serve(prepared: Prepared) -> int:
    """Run the server until it ends or is told to; return the status to end with."""
    os.umask(0o077)  # keys, configuration and sockets are nobody else's
    command, guard = install(prepared, os.environ)
    folder = prepared.settings.folder
    environment = make_environment(prepared.settings, os.environ)
    models = tuple((*crew.key, crew.workers) for crew in prepared.plan.crews)
    children = Children()
    server = children.start(command, folder=folder, environment=environment)
    front = children.start(guard, folder=folder, environment=environment) if guard is not None else None
    pids = [pid for pid in (front, server) if pid is not None]
    write_served(folder, Served(models, draining=False))
    while True:
        number = children.wait(3600)
        ended = _find_ended(children, pids)
        if ended is not None:
            children.end(pids, _PATIENCE)
            return ended
        if number in _STOPPING:
            write_served(folder, Served(models, draining=True))
            answered = _drain(prepared, children, models, front)
            children.end([server], _PATIENCE)
            children.end(pids, 0)
            _say("stopped" if answered else "stopped; what was not answered is lost")
            return 0 if answered else _LOST


def _find_ended(children: Children, pids: Sequence[int]) -> Optional[int]:
    """Return the exit status if the server or its guard has ended unasked."""
    for pid in pids:
        status = children.status(pid)
        if status is not None:
            what = "TorchServe" if pid == pids[-1] else "the guard"
            _say(f"{what} has ended unasked, {describe_status(status)}")
            return exit_status(status)
    return None


def _drain(
    prepared: Prepared, children: Children, models: Tuple[Tuple[str, str, int], ...], front: Optional[int]
) -> bool:
    """Return whether all that was accepted before now was answered in time."""
    deadline = time.monotonic() + prepared.settings.drain_seconds
    _say(f"told to stop; answering what is in work, at most {prepared.settings.drain_seconds:g} s")
    if front is not None:
        return _drain_guard(children, front, deadline)
    hurried: List[bool] = []

    def stop() -> bool:
        # A second signal, or a server that has died meanwhile, ends the wait.
        if children.wait(0) in _STOPPING:
            hurried.append(True)
        return bool(hurried)

    drained = drain(Server(prepared.settings), models, deadline, stop)
    return drained.accepted


def _drain_guard(children: Children, front: int, deadline: float) -> bool:
    """Let the guard take no more connections and finish those it has; return whether it did."""
    time.sleep(SETTLE)  # what the kernel has accepted reaches nginx before it closes its socket
    children.signal(front, signal.SIGQUIT)
    while children.status(front) is None and time.monotonic() < deadline:
        if children.wait(min(1.0, max(0.0, deadline - time.monotonic()))) in _STOPPING:
            return False
    return children.status(front) == 0


def _tell(prepared: Prepared) -> None:
    _say(f"TorchServe {prepared.release.version}; {'; '.join(prepared.plan.lines)}")
    for crew in prepared.plan.crews:
        target = crew.variant.target + (" EMULATED" if crew.variant.emulated else "") if crew.variant else "as it says"
        _say(
            f"{crew.archive.name} {crew.archive.version}: {crew.workers} worker(s), {target}, {crew.archive.path.name}"
        )
    for line in (*prepared.plan.warnings, *prepared.notes):
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(f"torchserve-neuron: {line}\n")
    sys.stderr.flush()
