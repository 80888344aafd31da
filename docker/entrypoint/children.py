"""The processes of the container: started, waited for, signalled; orphans are collected, as a first process must."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Set

_WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Children:
    """Started processes and the signals to this one, which wait until ``wait`` asks for them.

    Blocked signals are taken one by one, so that none arrives between a look and a decision, and the kernel keeps them
    also for process 1, for which it drops signals without a handler otherwise.
    """

    def __init__(self) -> None:
        self._statuses: Dict[int, int] = {}  # of those that have ended, by pid
        self._running: Set[int] = set()
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        # Also where something else is process 1, such as `docker run --init`: TorchServe's workers come to us.
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> int:
        """Return the pid of a command started in ``folder``, in a session of its own."""
        process = subprocess.Popen(
            list(command),
            cwd=str(folder),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal is this process's business
            preexec_fn=_unblock,  # safe: no thread runs yet
        )
        process.returncode = 0  # collected here; Popen would warn
        self._running.add(process.pid)
        return process.pid

    def wait(self, seconds: float) -> Optional[int]:
        """Return a signal sent to this process, or None after ``seconds`` or when a child has ended."""
        found = signal.sigtimedwait(_WATCHED, max(0.0, seconds))
        self._collect()
        return found.si_signo if found is not None and found.si_signo != signal.SIGCHLD else None

    def status(self, pid: int) -> Optional[int]:
        """Return how a child ended, as ``subprocess`` numbers it (negative: by that signal), or None while it runs."""
        return self._statuses.get(pid)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child that runs; to one that has ended, nothing."""
        if pid in self._running:
            os.kill(pid, number)

    def end(self, pids: Sequence[int], seconds: float) -> None:
        """End children: asked first, killed with all of their sessions after ``seconds``."""
        for pid in pids:
            self.signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(pid in self._running for pid in pids) and time.monotonic() < deadline:
            self.wait(0.2)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # the group outlives its first process: workers without a server
        while any(pid in self._running for pid in pids):
            self.wait(0.2)
        self._collect()

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                self._running.discard(pid)
                self._statuses[pid] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)


def describe_status(status: int) -> str:
    """Return how a process ended, for people."""
    return f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"


def exit_status(status: int) -> int:
    """Return the status to end with after a server that ended unasked: its own as a shell would tell it, never 0."""
    return 128 - status if status < 0 else status or 1
