"""The JVM's command is the one that TorchServe's own launcher would run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving import launching
from serving.class_archive import ClassArchive
from serving.errors import ServerError
from serving.java import Java
from serving.launching import Launch, find_torchserve, make_class_path, plan_launch, read_properties

CONFIG = "vmargs=-Xmx1g -Dlog4j.configurationFile=other.xml -Da=b\n# model_store=no\nmodel_store = m\n"


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A launch whose Java prints its words, one a line, in folders with blanks in their names."""
    command = tmp_path / "a java" / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    for name in ("a store", "t"):
        (tmp_path / name).mkdir()
    config = tmp_path / "my config.properties"
    config.write_text(CONFIG)
    (tmp_path / "log4j2.xml").touch()
    return Launch(
        Java(command.parent.parent, 17, "JAVA_HOME"), find_torchserve(), config, read_properties(config), None
    )


def make_command(launch: Launch, folder: Path) -> list[str]:
    """Return the command for one model."""
    return launch.make_command(
        log_config=folder / "log4j2.xml",
        temporary=folder / "t",
        record=folder / "classes.txt",
        store=folder / "a store",
        models="tiny=tiny.mar",
    )


def test_the_command_is_the_launchers(launch: Launch, tmp_path: Path) -> None:
    """Word for word but for the current folder in the class path, which keeps a JVM from sharing classes."""
    words = ["--start", "--ncs", "--foreground", "--ts-config", str(launch.config), "--models", "tiny=tiny.mar"]
    words += ["--model-store", str(tmp_path / "a store"), "--log-config", str(tmp_path / "log4j2.xml")]
    environment = {**os.environ, "JAVA_HOME": str(launch.java.home)}
    environment |= dict.fromkeys(("TEMP", "TMPDIR"), str(tmp_path / "t"))
    command = [sys.executable, "-m", "ts.model_server", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    _, *theirs = done.stdout.splitlines()  # the first is a remark about vmargs
    assert make_command(launch, tmp_path)[1:] == [word.removeprefix(".:") for word in theirs]


def test_a_percent_sign_in_a_path_is_written_as_a_url(launch: Launch, tmp_path: Path) -> None:
    """Log4j reads a URL, in which "a%20b" is a folder named "a b"."""
    folder = tmp_path / "a%20b"
    folder.mkdir()
    assert f"-Dlog4j.configurationFile=file://{tmp_path}/a%2520b/log4j2.xml" in make_command(launch, folder)


def test_the_classes_are_part_of_the_command(launch: Launch, tmp_path: Path) -> None:
    """An archive that is there is used, one that is not is prepared for."""
    archive = ClassArchive(launch.java.command, "", (), tmp_path / "x.jsa")
    shared = Launch(launch.java, launch.torchserve, launch.config, launch.properties, archive)
    assert f"-XX:DumpLoadedClassList={tmp_path}/classes.txt" in make_command(shared, tmp_path)
    archive.file.touch()
    archive.length.write_text("0")
    assert f"-XX:SharedArchiveFile={archive.file}" in make_command(shared, tmp_path)


@pytest.mark.parametrize(
    ("plugins", "added"), [("", ""), ("/p", ":/p/*"), ("/p/*.jar", ":/p/*.jar")], ids=["none", "folder", "pattern"]
)
def test_plugins_are_on_the_class_path(plugins: str, added: str) -> None:
    """As the launcher reads them from config.properties."""
    assert make_class_path(Path("/ts"), {"plugins_path": plugins}) == f"/ts/frontend/*{added}"


def test_a_python_without_torchserve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerError, match=r"TorchServe is not installed .* make venv"):
        find_torchserve()


def test_a_plan_has_what_the_file_says(launch: Launch) -> None:
    """The JVM's options and the store, comments left out."""
    planned = plan_launch(launch.java, launch.config)
    assert (planned.properties["model_store"], planned.classes) == ("m", None)  # there is no JVM behind that program
