"""Process 1's duties, in a process of their own: orphans collected, signals kept, statuses told."""

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.entrypoints import ROOT

from entrypoint import children  # isort: skip  the folder is put on the path by tests.entrypoints


@pytest.mark.parametrize(("status", "expected"), [(0, 1), (1, 1), (7, 7), (-9, 137), (-15, 143)])
def test_an_end_nobody_asked_for_is_never_0(status: int, expected: int) -> None:
    """As a shell tells it: 128 and the signal."""
    assert children.exit_status(status) == expected


def _run(script: str) -> str:
    """Return what a script printed that has ``children`` and ``Children``; its process becomes a subreaper."""
    head = f"import os, signal, sys, time\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT / 'docker')!r})\n"
    head += "from entrypoint.children import Children\nall = Children()\n"
    head += (
        "def start(text):\n    return all.start(['sh', '-c', text], folder=Path('/'), environment=dict(os.environ))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_orphans_are_collected() -> None:
    """A grandchild whose parent is gone ends as nobody's zombie, also while the server runs."""
    found = _run("""
        server, pid = start('exec sleep 30'), start('(sleep 0.2; exit 3) & exit 0')
        ended = time.monotonic() + 1
        while time.monotonic() < ended:
            all.wait(0.1)
        print(all.status(pid), os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        all.end([server], 5)
        """)
    assert found == "0 None"


def test_a_signal_that_came_early_is_not_lost() -> None:
    """It waits until somebody asks, and is told once."""
    assert _run("os.kill(os.getpid(), signal.SIGTERM); print(all.wait(1), all.wait(0))") == "15 None"


def test_children_get_signals_as_ever() -> None:
    """What is blocked here is not blocked there."""
    found = _run("""
        pid = start('exec sleep 30')
        all.signal(pid, signal.SIGTERM)
        while all.status(pid) is None:
            all.wait(1)
        print(all.status(pid))
        """)
    assert found == str(-signal.SIGTERM)


def test_what_does_not_end_is_killed_with_its_session() -> None:
    """One that ignores SIGTERM, and what it has started."""
    found = _run("""
        pid = start("trap '' TERM; sleep 60 & wait; sleep 60")
        time.sleep(0.5)
        all.end([pid], 0.5)
        print(all.status(pid))
        """)
    assert found == str(-signal.SIGKILL)
