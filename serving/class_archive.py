"""An archive of the classes that TorchServe's JVM loads: with it the JVM's start takes half the processor time.

The JVM's own class data sharing, docs/decisions/0024-cold-start.md. The first start with a Java notes which classes are
loaded; once the model answers, a process in the background makes the archive of them, and later starts map it. A JVM
that cannot use an archive (cut off, of another Java, of another jar) starts without one, only slower.
"""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ServerError
from serving.java import Java
from serving.processes import start_detached
from serving.runs import base_folder

OLDEST = 17  # the oldest Java that this is tried with; its options are known since 11
_KEPT = 4  # archives of other Javas or other TorchServes, 40 MB each
_PATIENCE = 120.0  # seconds for the JVM to write an archive; it takes 3
_FOLDER = "java"  # below the private folder of this user


@dataclass(frozen=True)
class ClassArchive:
    """The archive for one Java and one TorchServe, whether it is there or not."""

    java: Path  # the program
    class_path: str
    options: tuple[str, ...]  # -X..., as a start has them: what is kept of the heap depends on its size
    file: Path

    @property
    def failed(self) -> Path:
        """What the JVM said when the archive could not be made, which is not tried again."""
        return self.file.with_suffix(".failed")

    @property
    def length(self) -> Path:
        """The file that says how many bytes the archive has."""
        return self.file.with_suffix(".length")

    def is_whole(self) -> bool:
        """Return whether the archive is there in its full length; a JVM may die of a shorter one (SIGBUS)."""
        try:
            return self.file.stat().st_size == int(self.length.read_text())
        except (OSError, ValueError):
            return False

    def start_options(self, record: Path) -> list[str]:
        """Return the JVM's options for a start: to use the archive, else to list the loaded classes in ``record``."""
        if self.is_whole():
            # Verified, because a JVM that maps a damaged archive crashes: 20 ms.
            return [f"-XX:SharedArchiveFile={self.file}", "-XX:+VerifySharedSpaces"]
        return [] if self.failed.exists() else [f"-XX:DumpLoadedClassList={record}"]


def find_class_archive(java: Java, class_path: str, jars: Path, options: Iterable[str]) -> ClassArchive | None:
    """Return the archive for a Java with these options and the jars in a folder; None where there can be none.

    Its name changes with each of them, so that an archive of others is never asked for.
    """
    # Of a class path with a blank the JVM shares no class (seen with 17 and its static archives).
    if java.version < OLDEST or " " in class_path:
        return None
    given = tuple(option for option in options if option.startswith("-X"))
    try:
        folder = base_folder() / _FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        parts = [java.home / "lib" / "modules", java.command, *sorted(jars.glob("*.jar"))]
        key = [class_path, *given, *(f"{each} {each.stat().st_size} {each.stat().st_mtime_ns}" for each in parts)]
    except (OSError, ServerError):
        return None
    digest = hashlib.sha256("\n".join(key).encode("utf-8", "surrogateescape")).hexdigest()
    return ClassArchive(java.command, class_path, given, folder / f"{digest[:32]}.jsa")


def make_in_background(archive: ClassArchive, record: Path) -> int | None:
    """Start to make a missing archive of the classes in ``record``, with what no other process wants of the machine.

    Returns the process's id, None where there is nothing to do.
    """
    classes = archive.file.with_suffix(f".{os.getpid()}.classes")
    try:
        listed = record.read_bytes()  # the JVM goes on writing: up to the last whole line
        classes.write_bytes(listed[: listed.rfind(b"\n") + 1])
        command = [sys.executable, "-m", "serving.class_archive", archive.java, archive.class_path, archive.file]
        words = [str(each) for each in (*command, classes, *archive.options)]
        return start_detached(words, cwd=Path(__file__).resolve().parent.parent)
    except OSError:  # a server that answers is worth more than its next start
        return None


def make_archive(archive: ClassArchive, classes: Path) -> bool:
    """Write the archive of the classes listed in a file, whole or not at all; return whether it is there."""
    with archive.file.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return archive.is_whole()  # another start makes it
        if not archive.is_whole():
            _write(archive, classes)
        _remove_old(archive.file.parent)
        return archive.is_whole()


def _write(archive: ClassArchive, classes: Path) -> None:
    unfinished = archive.file.with_suffix(f".{os.getpid()}.tmp")
    command = [str(archive.java), *archive.options, "-Xshare:dump", f"-XX:SharedClassListFile={classes}"]
    command += [f"-XX:SharedArchiveFile={unfinished}", "-cp", archive.class_path]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
        )
        if done.returncode == 0 and unfinished.is_file():
            archive.length.write_text(str(unfinished.stat().st_size))
            unfinished.replace(archive.file)
        else:
            archive.failed.write_text(f"status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n")
    except (OSError, subprocess.TimeoutExpired) as exc:
        with contextlib.suppress(OSError):
            archive.failed.write_text(f"{type(exc).__name__}: {exc}\n")
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_old(folder: Path) -> None:
    """Remove all but the last few archives, and what was left half done; a JVM that has mapped one keeps it."""
    with contextlib.suppress(OSError):
        for path in [*folder.glob("*.classes"), *folder.glob("*.tmp")]:
            if path.stat().st_mtime < time.time() - _PATIENCE * 2:
                path.unlink()
        found = sorted(folder.glob("*.jsa"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[_KEPT:]:
            path.unlink()
            for suffix in (".lock", ".length"):
                path.with_suffix(suffix).unlink(missing_ok=True)


def _main(java: str, class_path: str, file: str, classes: str, *options: str) -> int:
    os.nice(19)
    try:
        return 0 if make_archive(ClassArchive(Path(java), class_path, options, Path(file)), Path(classes)) else 1
    finally:
        Path(classes).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
