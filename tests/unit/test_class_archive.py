"""The archive of classes: it is used, it is made once, and a start without it, or with a broken one, works as well."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving import class_archive
from serving.class_archive import ClassArchive, find_class_archive, make_archive, make_in_background
from serving.java import Java, find_java
from serving.launching import find_torchserve, make_class_path

CLASSES = "java/lang/Object\njava/lang/String\norg/pytorch/serve/ModelServer\norg/pytorch/serve/util/ConfigManager\n"
FRONTEND = find_torchserve() / "frontend"
CLASS_PATH = make_class_path(find_torchserve(), {})


def make_unmade(folder: Path) -> ClassArchive:
    """Return an archive of few classes that is not there yet, in a folder with a blank in its name."""
    (folder / "a folder").mkdir(parents=True)
    (folder / "classes.txt").write_text(CLASSES)
    return ClassArchive(find_java().command, CLASS_PATH, ("-Xmx1g",), folder / "a folder" / "x.jsa")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ClassArchive:
    """An archive that is there."""
    folder = tmp_path_factory.mktemp("made")
    archive = make_unmade(folder)
    assert make_archive(archive, folder / "classes.txt"), archive.failed.read_text()
    return archive


def run_torchserve(archive: ClassArchive, folder: Path) -> str:
    """Return what TorchServe's JVM prints about its classes, and its own help, when it starts with an archive."""
    options = [*archive.options, *archive.start_options(folder / "record.txt")]
    command = [str(archive.java), *options, "-Xlog:class+load", "-cp", archive.class_path]
    done = subprocess.run([*command, "org.pytorch.serve.ModelServer", "--help"], capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.skipif(" " in CLASS_PATH, reason="the JVM shares no class of a path with a blank, and this is one")
def test_a_start_shares_the_classes(made: ClassArchive, tmp_path: Path) -> None:
    """TorchServe's own class comes out of the archive, not out of the jar."""
    loaded = [line for line in run_torchserve(made, tmp_path).splitlines() if "serve.ModelServer source:" in line]
    assert ["shared objects file" in line for line in loaded] == [True]


def cut(path: Path) -> None:
    """Cut the file off in the middle, as a full disk does."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Leave nothing in the file."""
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    """Write over the middle of the file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 100_000)


@pytest.mark.parametrize("spoil", [cut, empty, scribble, Path.unlink])
def test_a_broken_archive_stops_no_start(spoil: Callable[[Path], None], made: ClassArchive, tmp_path: Path) -> None:
    """The JVM goes on without it."""
    copy = make_unmade(tmp_path)
    copy.file.write_bytes(made.file.read_bytes())
    copy.length.write_text(made.length.read_text())
    spoil(copy.file)
    assert "--disable-token-auth" in run_torchserve(copy, tmp_path)


def test_an_archive_of_another_class_path_stops_no_start(made: ClassArchive, tmp_path: Path) -> None:
    """A plugin that came since, for one."""
    other = ClassArchive(made.java, f"{CLASS_PATH}:{tmp_path}", made.options, made.file)
    assert "--disable-token-auth" in run_torchserve(other, tmp_path)


def test_the_first_start_lists_its_classes(tmp_path: Path) -> None:
    """What it loads is what the archive will hold."""
    run_torchserve(make_unmade(tmp_path), tmp_path)
    assert "org/pytorch/serve/ModelServer" in (tmp_path / "record.txt").read_text()


def test_two_starts_at_once_make_one_archive(tmp_path: Path) -> None:
    """One makes it, the other leaves it to the first; nothing half done stays."""
    archive = make_unmade(tmp_path)
    threads = [threading.Thread(target=make_archive, args=(archive, tmp_path / "classes.txt")) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(path.name for path in archive.file.parent.iterdir()) == ["x.jsa", "x.length", "x.lock"]


def test_it_is_made_in_the_background(tmp_path: Path) -> None:
    """From whole lines of the list alone: the JVM may be writing the last one."""
    archive = make_unmade(tmp_path)
    (tmp_path / "classes.txt").write_text(f"{CLASSES}org/pytor")
    assert make_in_background(archive, tmp_path / "classes.txt") is not None
    deadline = time.monotonic() + 60
    while {path.suffix for path in archive.file.parent.iterdir()} != {
        ".jsa",
        ".length",
        ".lock",
    } and time.monotonic() < deadline:
        time.sleep(0.05)
    assert archive.file.is_file()


def test_without_a_list_nothing_is_started(tmp_path: Path) -> None:
    """A server that was stopped meanwhile has taken it along."""
    assert make_in_background(make_unmade(tmp_path), tmp_path / "gone") is None


def test_what_failed_is_not_tried_again(tmp_path: Path) -> None:
    """A Java that cannot make an archive would cost its seconds at each start; why it cannot is kept."""
    archive = ClassArchive(Path("/bin/false"), CLASS_PATH, (), tmp_path / "x.jsa")
    assert not make_archive(archive, tmp_path / "classes.txt")
    assert archive.failed.read_text().startswith("status 1")
    assert archive.start_options(tmp_path / "record.txt") == []


def test_a_folder_that_cannot_be_made_means_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is none the worse for it."""
    monkeypatch.setattr(class_archive, "base_folder", lambda: tmp_path)
    (tmp_path / "java").write_text("a file where the folder should be")
    assert find_class_archive(find_java(), CLASS_PATH, FRONTEND, ["-Xmx1g"]) is None


def test_a_folder_that_takes_no_files_ends_nothing(tmp_path: Path) -> None:
    """The server answers already when its list of classes cannot be kept: a full disk, a folder that is read-only."""
    (tmp_path / "classes.txt").write_text(CLASSES)
    archive = ClassArchive(find_java().command, CLASS_PATH, (), tmp_path / "gone" / "x.jsa")
    assert make_in_background(archive, tmp_path / "classes.txt") is None


def test_a_cut_archive_is_made_again(made: ClassArchive, tmp_path: Path) -> None:
    """It is not shown to a JVM, which may die of it; the next start lists the classes as the first did."""
    copy = make_unmade(tmp_path)
    copy.file.write_bytes(made.file.read_bytes())
    copy.length.write_text(made.length.read_text())
    cut(copy.file)
    assert copy.start_options(tmp_path / "record.txt") == [f"-XX:DumpLoadedClassList={tmp_path / 'record.txt'}"]
    assert make_archive(copy, tmp_path / "classes.txt")
    assert copy.is_whole()


def test_a_class_path_with_a_blank_has_none() -> None:
    """The JVM would map an archive of it and share nothing."""
    assert find_class_archive(find_java(), "/a clone/*", FRONTEND, []) is None


def test_an_old_java_has_none() -> None:
    """It is not tried with it."""
    assert find_class_archive(Java(find_java().home, 11, "PATH"), CLASS_PATH, FRONTEND, []) is None


@pytest.mark.parametrize("change", ["class path", "option", "jar"])
def test_another_server_has_another_archive(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made for something else is not even looked at."""
    monkeypatch.setattr(class_archive, "base_folder", lambda: tmp_path)
    jar = tmp_path / "a.jar"
    jar.write_text("one")
    first = find_class_archive(find_java(), "a", tmp_path, ["-Xmx1g", "-Dx=y"])
    jar.write_text("another" if change == "jar" else "one")
    os.utime(jar, (1, 1)) if change == "jar" else None
    options = ["-Xmx2g" if change == "option" else "-Xmx1g"]
    second = find_class_archive(find_java(), "b" if change == "class path" else "a", tmp_path, options)
    assert first is not None and second is not None and first.file != second.file


def test_a_property_of_the_program_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the options of the JVM itself change what it keeps."""
    monkeypatch.setattr(class_archive, "base_folder", lambda: tmp_path)
    found = [find_class_archive(find_java(), "a", tmp_path, [option]) for option in ("-Da=1", "-Da=2")]
    assert found[0] == found[1] is not None


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    """Each has 40 MB; what a killed process left half done goes after minutes."""
    names = ["a.jsa", "b.jsa", "c.jsa", "d.jsa", "e.jsa", "f.1.tmp", "f.1.classes"]
    for age, name in enumerate(names):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 1000 * age,) * 2)
    class_archive._remove_old(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsa", "b.jsa", "c.jsa", "d.jsa"]
