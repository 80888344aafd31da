"""Processes are ended with all that they have started, and no longer waited for than is of use."""

import subprocess
import sys
import time

import psutil
import pytest

from serving import processes

LISTENER = """
import signal, socket, time
listener = socket.create_server(("127.0.0.1", 0))
signal.signal(signal.SIGTERM, lambda *_: listener.close())
print(flush=True)
while True:
    time.sleep(0.01)
"""


def test_a_process_that_ignores_the_signal_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked first, killed after the patience is over; the child goes with it."""
    monkeypatch.setattr(processes, "_PATIENCE", 0.3)
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); print(flush=True); {child}"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)  # until both ignore the signal
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        processes.end_tree(tree[0])
        assert len(tree) == 2
        assert not [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_has_closed_its_ports_is_not_waited_for() -> None:
    """TorchServe idles for two seconds after that, in which nobody is answered."""
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        processes.end_tree(psutil.Process(process.pid))
        assert time.monotonic() - began < processes._PATIENCE / 2
