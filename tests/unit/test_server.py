"""Starting and stopping: what the server inherits, and what is refused before it starts."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from serving import server
from serving.errors import NoSpace, ServerError, ServerRuns
from serving.java import Java
from serving.ports import Ports
from serving.runs import RunFolder, RunState
from serving.server import ServeSettings
from tests.ports import find_free_ports
from tracing.checking import read_archive_record

JAVA = Java(Path("/opt/java"), 17, "JAVA_HOME")
RUNNING = RunState(9000, 1, 1.0, "tiny", "/store/tiny.mar", "a" * 64, ServeSettings(port=9000).as_texts())


def make_environment(inherited: dict[str, str], **settings: object) -> dict[str, str]:
    """Return the environment of a server on port 9000."""
    chosen = dataclasses.replace(ServeSettings(port=9000), **settings)  # type: ignore[arg-type]
    return server.make_environment(inherited, Ports.starting_at(9000), JAVA, chosen, RunFolder(9000), workers=3)


def test_the_callers_settings_of_another_server_do_not_leak() -> None:
    """No TS_ variable and no module path of the caller's reaches the server; the rest does."""
    inherited = {"TS_LOAD_MODELS": "all", "TS_CONFIG_FILE": "x", "PYTHONPATH": "/kit", "PYTHONHOME": "/p", "LANG": "C"}
    environment = make_environment(inherited)
    assert not {"TS_LOAD_MODELS", "TS_CONFIG_FILE", "PYTHONPATH", "PYTHONHOME"} & set(environment)
    assert environment["LANG"] == "C"


def test_all_addresses_are_on_the_loopback() -> None:
    """The three addresses follow the port, on this machine only."""
    environment = make_environment({})
    addresses = [environment[f"TS_{name}_ADDRESS"] for name in ("INFERENCE", "MANAGEMENT", "METRICS")]
    assert addresses == [f"http://127.0.0.1:{port}" for port in (9000, 9001, 9002)]


def test_the_servers_files_stay_in_its_folder() -> None:
    """Sockets, unpacked archives and logs of two servers never meet."""
    environment = make_environment({"TMPDIR": "/elsewhere", "TEMP": "/elsewhere", "LOG_LOCATION": "/elsewhere"})
    folder = RunFolder(9000)
    assert environment["TEMP"] == environment["TMPDIR"] == str(folder.temporary)
    assert environment["LOG_LOCATION"] == environment["METRICS_LOCATION"] == str(folder.logs)


@pytest.mark.parametrize(("token", "disabled"), [(True, "false"), (False, "true")])
def test_one_setting_switches_tokens(token: bool, disabled: str) -> None:
    """Tokens are on only when asked for."""
    assert make_environment({}, token=token)["TS_DISABLE_TOKEN_AUTHORIZATION"] == disabled


def test_the_server_starts_the_planned_workers() -> None:
    """Whatever TorchServe's own default is."""
    assert make_environment({})["TS_DEFAULT_WORKERS_PER_MODEL"] == "3"


@pytest.mark.parametrize(("inherited", "expected"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "4"}, "4")])
def test_workers_start_no_threads_of_numpys(inherited: dict[str, str], expected: str) -> None:
    """They would have to share one processor; who wants them says so."""
    assert make_environment(inherited)["OPENBLAS_NUM_THREADS"] == expected


def test_the_workers_of_an_emulated_server_find_the_emulator() -> None:
    """Its frameworks and tools, and the instance; nothing else of the caller's module path."""
    environment = make_environment({"PYTHONPATH": "/kit", "PATH": "/bin"}, emulated="inf2.xlarge")
    assert environment["PYTHONPATH"].endswith("/emulator")
    assert environment["PATH"].endswith("/emulator/bin:/bin")
    assert environment["NEURON_EMULATOR_INSTANCE"] == "inf2.xlarge"


def test_the_same_archive_and_settings_are_recognised() -> None:
    """Nothing is wrong with asking twice."""
    server._ensure_same(RUNNING, Path("/store/tiny.mar"), "a" * 64, ServeSettings(port=9000))


@pytest.mark.parametrize(
    ("archive", "digest", "settings", "what"),
    [
        ("/store/other.mar", "b" * 64, ServeSettings(port=9000), r"tiny from /store/tiny.mar; stop it first"),
        ("/store/tiny.mar", "b" * 64, ServeSettings(port=9000), r"before it was built again; stop it first"),
        ("/store/tiny.mar", "a" * 64, ServeSettings(port=9000, workers=2), r"other settings \(.*workers=0\); stop it"),
    ],
)
def test_another_archive_or_setting_is_refused(archive: str, digest: str, settings: ServeSettings, what: str) -> None:
    """The message says what runs there and how to stop it."""
    with pytest.raises(ServerRuns, match=what + r".*make stop PORT=9000"):
        server._ensure_same(RUNNING, Path(archive), digest, settings)


def test_a_full_disk_is_refused_before_the_start(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has what is free and what is wanted."""
    monkeypatch.setattr(server, "_SPARE", 10**18)
    with pytest.raises(NoSpace, match=r"MB free; the archive unpacks to"):
        server._ensure_space(tiny_archive, tiny_archive.parent)


def test_a_missing_archive_is_refused(tiny_archive: Path) -> None:
    """A file that is not there is named."""
    record, gone = read_archive_record(tiny_archive), tiny_archive.with_name("gone.mar")
    with pytest.raises(ServerError, match=r"no archive .*gone\.mar; build it"):
        server.start(gone, record, ServeSettings(port=find_free_ports(1)[0]), progress=print)


def test_stopping_where_nothing_runs_is_no_error() -> None:
    """There is nothing to stop, and nothing is signalled."""
    assert server.stop(find_free_ports(1)[0]) is None


def test_workers_that_outlived_their_server_are_ended() -> None:
    """A worker in a dead server's folder is ended, and the folder removed, before another server starts there."""
    folder = RunFolder(find_free_ports(1)[0])
    folder.create()
    words = [sys.executable, "-c", "input()", f"{folder.temporary}/.ts.sock.9000"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as worker:
        server.stop(folder.port)
        assert worker.wait(5) != 0
    assert not folder.path.exists()
