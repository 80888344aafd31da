"""A benchmark that is interrupted leaves no process: no server, no worker, no load generator."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.ports import find_port_row
from tests.servers import PATIENCE, ROOT

pytestmark = pytest.mark.long
MARK = "BENCH_TEST_MARK"  # in the environment of all that a benchmark starts


@contextmanager
def benchmark(folder: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a benchmark of the smallest model with long runs of load, in a session of its own."""
    command = [sys.executable, "-m", "cli.main", "bench", "tiny", "--rounds", "1", "--concurrency", "1", *words]
    command += ["--store", folder / "store", "--build", folder / "build", "--output", folder / "bench"]
    process = subprocess.Popen(
        [*map(str, command), "--port", str(find_port_row(5))],
        cwd=ROOT,
        env={**os.environ, MARK: str(folder)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for each in find(folder):
            with suppress(psutil.Error):
                each.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def find(folder: Path, word: str = "") -> list[psutil.Process]:
    """Return the processes of a benchmark that live, those with ``word`` in their command line."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            marked = each.environ().get(MARK) == str(folder) and each.status() != psutil.STATUS_ZOMBIE
            found += [each] if marked and any(word in part for part in each.cmdline()) else []
    return found


def wait_for(process: "subprocess.Popen[str]", folder: Path, words: list[str]) -> None:
    """Return when a process of the benchmark has each word in its command line."""
    deadline = time.monotonic() + PATIENCE
    while not all(find(folder, word) for word in words):
        assert process.poll() is None, "the benchmark has ended"
        assert time.monotonic() < deadline, f"no {words} among {find(folder)}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds", "60", "--no-stock"], ["model_service_worker.py", "benchmarking.load"]),
        (["--seconds", "60", "--no-stock"], ["org.pytorch.serve"]),  # while it starts
        (["--seconds", "1"], ["stock.mar", "benchmarking.load"]),
        (["--seconds", "5", "--no-stock"], ["benchmarking.limit"]),
    ],
    ids=["load", "start", "stock", "limit"],
)
def test_nothing_is_left(tmp_path: Path, number: signal.Signals, options: list[str], words: list[str]) -> None:
    """Wherever it is: Ctrl-C reaches the whole foreground group, SIGTERM the command alone."""
    with benchmark(tmp_path, *options) as process:
        wait_for(process, tmp_path, words)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert errors.rstrip().endswith("interrupted")
        assert find(tmp_path) == []
