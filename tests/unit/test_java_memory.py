"""What a Java said is kept as long as its files are the same, and no longer."""

import os
import shutil
from pathlib import Path

import pytest

from serving import java_memory
from serving.java import find_java
from serving.java_memory import recall, remember


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this machine at a place of its own; what is remembered lies in the test's folder."""
    monkeypatch.setattr(java_memory, "base_folder", lambda: tmp_path)
    (tmp_path / "home" / "bin").mkdir(parents=True)
    return Path(shutil.copy("/bin/true", tmp_path / "home" / "bin" / "java"))


def test_what_was_said_is_recalled(program: Path) -> None:
    """Home and version, by the program's path."""
    remember(program, program.parent.parent, 17)
    assert recall(program) == (program.parent.parent, 17)


def test_a_program_that_was_never_asked_is_unknown(program: Path) -> None:
    """It is asked."""
    assert recall(program) is None


@pytest.mark.parametrize("changed", ["bin/java", "lib/server/libjvm.so"])
def test_an_updated_java_is_asked_again(changed: str, program: Path) -> None:
    """The program may stay as it is while the JVM beside it is replaced."""
    jvm = program.parent.parent / "lib" / "server" / "libjvm.so"
    jvm.parent.mkdir(parents=True)
    jvm.touch()
    remember(program, program.parent.parent, 17)
    os.utime(program.parent.parent / changed, (1, 1))
    assert recall(program) is None


def test_a_link_that_leads_elsewhere_is_asked_again(program: Path, tmp_path: Path) -> None:
    """As after a change of the system's default Java."""
    link = tmp_path / "java"
    link.symlink_to(program)
    remember(link, program.parent.parent, 17)
    link.unlink()
    link.symlink_to("/bin/false")
    assert recall(link) is None


def test_a_script_is_asked_each_time(program: Path) -> None:
    """A version manager's script may mean another Java tomorrow."""
    program.write_text("#!/bin/sh\n")
    remember(program, program.parent.parent, 17)
    assert recall(program) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_spoilt_memory_is_none(content: str, program: Path, tmp_path: Path) -> None:
    """It is written anew."""
    (tmp_path / "java.json").write_text(content)
    assert recall(program) is None
    remember(program, program.parent.parent, 17)
    assert recall(program) == (program.parent.parent, 17)


def test_a_memory_that_cannot_be_written_is_no_error(program: Path, tmp_path: Path) -> None:
    """The program is asked again next time."""
    (tmp_path / "java.json").mkdir()
    remember(program, program.parent.parent, 17)
    assert recall(program) is None


def test_the_memory_stays_small(program: Path, tmp_path: Path) -> None:
    """Environments come and go, and each has a Java of its own."""
    for number in range(30):
        remember(Path(shutil.copy(program, tmp_path / f"java{number}")), program.parent.parent, 17)
    assert recall(tmp_path / "java0") is None
    assert recall(tmp_path / "java29") is not None


def test_the_memory_says_what_the_java_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look finds the same Java without running it."""
    monkeypatch.setattr(java_memory, "base_folder", lambda: tmp_path)
    assert find_java() == find_java()
    assert (tmp_path / "java.json").is_file()
