"""Run folders: how a server is told from the dead, from a recycled pid, and from another user's trap."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving import runs
from serving.errors import ServerError
from serving.runs import RunFolder, RunState, find_leftovers, find_process, read_start
from tests.ports import find_free_ports


@pytest.fixture
def folder() -> Iterator[RunFolder]:
    """The run folder of a port that no server has."""
    run_folder = RunFolder(find_free_ports(1)[0])
    run_folder.create()
    yield run_folder
    run_folder.remove()
    run_folder.path.with_name(f"{run_folder.port}.lock").unlink(missing_ok=True)


def make_state(port: int, pid: int = 0, moved: float = 0.0) -> RunState:
    """Return the state of a server whose process is this one, or another."""
    pid = pid or os.getpid()
    created = read_start(psutil.Process(pid)) + moved
    return RunState(port, pid, created, "tiny", "/tiny.mar", "0" * 64, {"log": "warn"})


def test_a_living_server_is_read_back(folder: RunFolder) -> None:
    """What was written is what is read, and the server is listed."""
    state = make_state(folder.port)
    folder.write(state)
    assert folder.read() == state
    assert state in runs.list_servers()


def test_a_recycled_pid_is_no_server(folder: RunFolder) -> None:
    """Another process with the recorded pid began at another time, and is left alone."""
    folder.write(make_state(folder.port, moved=-100.0))
    assert folder.read() is None


def test_a_dead_server_is_no_server(folder: RunFolder) -> None:
    """After the process has ended, its state counts no more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        state = make_state(folder.port, process.pid)
        assert find_process(state) is not None
        process.kill()
        process.wait()
    assert find_process(state) is None


def test_a_zombie_is_no_server() -> None:
    """A process that nobody has collected yet is dead all the same."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = make_state(1, process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    found = find_process(state)
    process.communicate()
    assert found is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"port": 1}', json.dumps({"unknown": 1})])
def test_a_damaged_state_is_no_server(folder: RunFolder, content: str) -> None:
    """A file that was cut off, or is of another release, is passed over."""
    (folder.path / "server.json").write_text(content)
    assert folder.read() is None


def test_creating_leaves_nothing_of_the_last_server(folder: RunFolder) -> None:
    """A new server starts with empty logs and without the logs of an earlier failure."""
    (folder.logs / "old.log").write_text("old")
    folder.failed.mkdir()
    folder.create()
    assert sorted(path.name for path in folder.path.rglob("*")) == ["logs", "t"]
    assert not folder.failed.exists()


def test_sockets_fit_into_the_longest_path_whatever_tmpdir_says(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Unix socket's path has at most 107 bytes."""
    monkeypatch.setenv("TMPDIR", "/tmp/" + "deep/" * 40)
    assert len(f"{RunFolder(65533).temporary}/.ts.sock.9999999") <= 107


def test_only_one_command_at_a_time(folder: RunFolder) -> None:
    """A second start or stop of the same port is refused and names the first."""
    refused = pytest.raises(ServerError, match=f"process {os.getpid()}.*port {folder.port}")
    with folder.lock(), refused, folder.lock():
        pytest.fail("two commands held the lock")
    with folder.lock():
        pass


def test_finds_what_runs_in_the_folder_and_nothing_else(folder: RunFolder) -> None:
    """JVM and workers are known by the folder in their command lines, the JVM first."""
    sleep = [sys.executable, "-c", "input()"]
    words = ["--sock-name", f"{folder.temporary}/.ts.sock.9000"], [f"-Djava.io.tmpdir={folder.temporary}"]
    others = [f"-Djava.io.tmpdir={folder.temporary}2"], [str(folder.temporary)]
    started = [subprocess.Popen([*sleep, *each], stdin=subprocess.PIPE) for each in (*words, *others)]
    try:
        found = [process.pid for process in find_leftovers(folder)]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert found == [started[1].pid, started[0].pid]


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the folder of a user without one would be."""
    user = 4_000_000_000 + os.getpid()
    path = Path(f"/tmp/torchserve-neuron-{user}")
    monkeypatch.setattr(os, "getuid", lambda: user)
    yield path
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def test_refuses_a_folder_of_another_user(stranger: Path) -> None:
    """A folder that somebody else has put there first is not used."""
    stranger.mkdir(mode=0o700)
    with pytest.raises(ServerError, match="not a private folder of user"):
        runs.base_folder()


def test_refuses_a_link(stranger: Path, tmp_path: Path) -> None:
    """A link in a folder that all may write to leads where another user wants."""
    stranger.symlink_to(tmp_path)
    with pytest.raises(ServerError, match="not a private folder of user"):
        runs.base_folder()


def test_the_folder_is_for_its_user_alone() -> None:
    """Keys and logs are nobody else's business."""
    assert runs.base_folder().stat().st_mode & 0o077 == 0
