"""The run folder of a server: what one server leaves on the host, and how it is told from others and from the dead.

A server is named by its inference port. Its folder lies below ``/tmp`` whatever ``TMPDIR`` says, because a Unix
socket's path has at most 107 bytes, and TorchServe puts one for every worker into its temporary folder.
"""

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from serving.errors import ServerError


@dataclass(frozen=True)
class RunState:
    """What is known of a started server, kept in its run folder."""

    port: int  # of inference; management and metrics follow
    pid: int  # of the JVM
    created: float  # when that process began, see read_start: tells it from another with a recycled pid
    model: str
    archive: str  # path
    archive_sha256: str
    settings: dict[str, str]  # what the caller asked for: workers, log, token


class RunFolder:
    """The folder of the server on one port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.path = base_folder() / str(port)
        self.logs = self.path / "logs"
        self.temporary = self.path / "t"
        self.classes = self.path / "classes.txt"  # that the JVM has loaded, if it was asked to list them
        self.failed = self.path.with_name(f"{port}-failed")  # the logs of the last start, if it failed

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one command at a time start or stop the server on this port; raise ``ServerError`` if another does."""
        with self.path.with_name(f"{self.port}.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ServerError(
                    f"another command (process {file.read()}) is starting or stopping the server on port {self.port}; "
                    "wait until it has ended, or interrupt it"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def create(self) -> None:
        """Make the folder, empty."""
        self.remove()
        shutil.rmtree(self.failed, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.temporary.mkdir()

    def remove(self) -> None:
        """Remove the folder with all that the server unpacked and logged."""
        shutil.rmtree(self.path, ignore_errors=True)

    def read(self) -> RunState | None:
        """Return the state of a server that is alive, else None."""
        try:
            state = RunState(**json.loads((self.path / "server.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return state if find_process(state) is not None else None

    def write(self, state: RunState) -> None:
        """Keep the state."""
        (self.path / "server.json").write_text(json.dumps(asdict(state), indent=2) + "\n")


def find_process(state: RunState) -> psutil.Process | None:
    """Return the server's process if it lives, never another that has got its pid since."""
    try:
        process = psutil.Process(state.pid)
        alive = abs(read_start(process) - state.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        return process if alive else None
    except psutil.Error:
        return None


def read_start(process: psutil.Process) -> float:
    """Return when a process began, in the kernel's ticks since the machine started, else in seconds since 1970.

    Ticks, because seconds since 1970 move when the clock is set, and a living server would be taken for dead.
    """
    try:
        stat_line = Path(f"/proc/{process.pid}/stat").read_text()
        return float(stat_line.rpartition(")")[2].split()[19])  # the 22nd field; the 2nd, a name, may hold blanks
    except (OSError, IndexError, ValueError):
        return process.create_time()


def find_leftovers(folder: RunFolder) -> list[psutil.Process]:
    """Return the JVM and workers that use a run folder's temporary folder, whoever started them, the JVM first.

    That path stands in their command lines and in no other's, so that they are found when nobody recorded them: a start
    that was killed in the middle, or workers that have outlived their JVM.
    """
    jvm, socket = f"-Djava.io.tmpdir={folder.temporary}", f"{folder.temporary}/.ts.sock."
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if jvm in words:
            found.insert(0, process)
        elif any(word.startswith(socket) for word in words):
            found.append(process)
    return found


def list_servers() -> list[RunState]:
    """Return the servers of this user that live, lowest port first."""
    ports = sorted(int(path.name) for path in base_folder().iterdir() if path.name.isdigit())
    states = (RunFolder(port).read() for port in ports)
    return [state for state in states if state is not None]


def base_folder() -> Path:
    """Return this user's folder of run folders, made if need be; refuse one that another user has put there."""
    user = os.getuid()
    path = Path(f"/tmp/torchserve-neuron-{user}")  # noqa: S108  owner and mode are checked below
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise ServerError(f"{path} is not a private folder of user {user}; remove it, or ask its owner to")
    return path
