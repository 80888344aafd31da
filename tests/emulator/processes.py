"""Workers of the emulator's tests: real processes that take cores and keep them until told to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

EMULATOR = Path(__file__).resolve().parents[2] / "emulator"

# Prints the cores of the host that it got, or the exception; runs each further line as a program and prints "done".
WORKER = """
import os, sys, traceback
try:
    from neuron_emulator.runtime import Need, describe_host, get_runtime, reset_runtime
    print(*get_runtime().cores, flush=True)
except RuntimeError as exc:
    print(repr(exc), flush=True)
for line in sys.stdin:
    try:
        exec(line)
        print("done", flush=True)
    except RuntimeError as exc:
        print(repr(exc), flush=True)
"""


# Runs a line in a forked child, which prints how that went.
IN_CHILD = """
child = os.fork()
if child == 0:
    try:
        {line}
        print("ran", flush=True)
    except RuntimeError as exc:
        print(exc, flush=True)
    finally:
        os._exit(0)
os.waitpid(child, 0)
"""


class Worker:
    """A process with a runtime of its own; its variables are this process's and those given."""

    def __init__(self, **environ: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", WORKER],
            env={**os.environ, "PYTHONPATH": str(EMULATOR), **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.log = ""  # what it has written on standard error, once it has ended
        self.start = self._process.stdout.readline().strip()  # its cores, "0 1", or the exception

    @property
    def cores(self) -> tuple[int, ...]:
        """Return the cores that it got; empty if it was refused."""
        return () if "Error" in self.start else tuple(int(core) for core in self.start.split())

    def run(self, line: str) -> str:
        """Let it run one line; return "done", what the line printed, or the exception."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def run_in_child(self, line: str) -> str:
        """Let a forked child of it run one line; return "ran" or the exception's text."""
        answer = self.run(f"exec({IN_CHILD.format(line=line)!r})")
        assert self._process.stdout.readline() == "done\n"
        return answer

    def kill(self) -> None:
        """End it with kill -9."""
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> str:
        """End it in good order; return its log."""
        if self._process.poll() is None or not self.log:
            self.log = self._process.communicate()[1] or self.log
        return self.log

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._process.stdout.closed:
            self.end()
