"""The image for a CPU, built on the stand-in and run as docs/containers.md says: read-only, without capabilities."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.containers.engine import Container, Engine
from tests.ports import find_port_row
from tests.servers import RECIPES, ROOT, wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]  # the first fixture bootstraps and builds
RED = (RECIPES / "tiny_red.png").read_bytes()
OPEN = {"TSN_TOKENS": "0", "TSN_BIND": "127.0.0.1", "TSN_DRAIN_SECONDS": "15"}


@pytest.fixture(scope="module")
def running(engine: Engine, cpu_image: str) -> Iterator[Container]:
    """One container for the tests that leave it as it was."""
    with engine.start(cpu_image, find_port_row(5), {**OPEN, "TSN_WORKERS": "tiny=2"}, name="shared") as container:
        container.wait_until_healthy()
        yield container


@pytest.fixture
def fresh(engine: Engine, cpu_image: str) -> Iterator[Container]:
    """A container for a test that ends it or breaks something in it."""
    with engine.start(cpu_image, find_port_row(5), OPEN, name="fresh") as container:
        container.wait_until_healthy()
        yield container


def test_the_image_says_what_docs_say(engine: Engine, cpu_image: str) -> None:
    """User, signal, health, port and labels are those of the Dockerfile, whatever the base had."""
    config = engine.inspect(cpu_image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Entrypoint"] == ["python", "/opt/torchserve-neuron/entrypoint"]
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert engine.inspect(cpu_image)["Healthcheck"]["Test"][-1] == "healthcheck"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40


def test_a_picture_is_answered(running: Container) -> None:
    """The model in the image answers rightly."""
    answer = running.predict(RED)
    assert (answer.status_code, next(iter(answer.json()))) == (200, "red")


def test_an_explanation_is_answered(running: Container) -> None:
    """The packages for explanations are in the image."""
    assert running.predict(RED, "/explanations/tiny").status_code == 200


def test_nothing_runs_as_root(running: Container) -> None:
    """Every process inside belongs to the image's user, on the host too."""
    assert {user for _, user, _ in running.processes()} == {10001}


@pytest.mark.parametrize("place", ["/x", "/models/x", "/opt/venv/x", "/opt/torchserve-neuron/x", "/etc/x"])
def test_the_image_cannot_be_written(running: Container, place: str) -> None:
    """Neither the model store nor the code can be changed from inside."""
    assert running.execute("touch", place).returncode != 0


@pytest.mark.parametrize("tool", ["gcc", "cc", "g++", "make", "ld", "javac", "git", "curl"])
def test_there_is_no_tool_to_build_with(running: Container, tool: str) -> None:
    """The image that serves has no compiler."""
    assert running.execute("sh", "-c", f"command -v {tool}").returncode != 0


@pytest.mark.parametrize("package", ["tracing", "serving", "cli", "neuron_emulator", "model_archiver"])
def test_the_kit_is_not_in_the_image(running: Container, package: str) -> None:
    """What builds archives, and the emulator, stay outside."""
    done = running.execute("python", "-c", f"import importlib.util as u; print(u.find_spec({package!r}))")
    assert done.stdout.strip() == "None", done.stderr


@pytest.mark.parametrize("offset", [1, 2], ids=["management", "metrics"])
def test_management_and_metrics_stay_on_loopback(running: Container, offset: int) -> None:
    """The host's other addresses do not reach them, though the container is in the host's network."""
    with socket.create_connection(("127.0.0.1", running.port + offset), timeout=5):
        pass
    for address in _other_addresses():
        with pytest.raises(OSError), socket.create_connection((address, running.port + offset), timeout=2):
            pass


def test_a_killed_worker_comes_back(fresh: Container) -> None:
    """A killed worker makes the container unhealthy until another has taken its place; the container goes on."""
    before = _workers(fresh)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: not fresh.is_healthy(), "an unhealthy container", log=fresh.logs)
    wait_for(lambda: _workers(fresh) and _workers(fresh) != before, "another worker", log=fresh.logs)
    fresh.wait_until_healthy()
    assert fresh.predict(RED).status_code == 200
    assert fresh.state()["Status"] == "running"


def test_a_killed_server_ends_the_container(fresh: Container) -> None:
    """Without TorchServe there is nothing to stay for: the status is not 0."""
    server = next(pid for pid, _, words in fresh.processes() if "java" in words.split()[0])
    os.kill(server, signal.SIGKILL)
    assert fresh.wait_for_end() != 0


def test_stopping_under_load_loses_nothing_accepted(fresh: Container) -> None:
    """Every request that was sent before `podman stop` is answered, and the container's status is 0."""
    load = _Load(fresh)
    wait_for(lambda: len(load.answers) > 50, "fifty answers", log=fresh.logs)
    stopped = time.monotonic()
    fresh.engine.run("stop", "--time=40", fresh.name)
    load.finish()
    assert fresh.state()["ExitCode"] == 0, fresh.logs()
    early = [what for began, what in load.answers if began < stopped]
    assert set(early) == {200}, fresh.logs()


def test_behind_the_guard_no_connection_is_cut(engine: Engine, cpu_image: str) -> None:
    """Stopped under load, nginx answers all that it has accepted: clients see answers, then a refused connection."""
    with engine.start(cpu_image, find_port_row(5), {**OPEN, "TSN_GUARD": "1"}, name="guarded") as container:
        container.wait_until_healthy()
        load = _Load(container)
        wait_for(lambda: len(load.answers) > 50, "fifty answers", log=container.logs)
        container.engine.run("stop", "--time=40", container.name)
        load.finish()
        assert container.state()["ExitCode"] == 0, container.logs()
        assert {what for _, what in load.answers} == {200}, container.logs()


def test_tokens_are_asked_for_by_default(engine: Engine, cpu_image: str) -> None:
    """Without TSN_TOKENS a request needs the key that TorchServe wrote inside."""
    with engine.start(cpu_image, find_port_row(5), {"TSN_BIND": "127.0.0.1"}, name="tokens") as container:
        container.wait_until_healthy()
        keys = json.loads(container.execute("cat", "/var/lib/torchserve-neuron/key_file.json").stdout)
        assert container.predict(RED).status_code == 400
        key = {"Authorization": f"Bearer {keys['inference']['key']}"}
        assert container.predict(RED, headers=key).status_code == 200


@pytest.mark.parametrize("signed", [True, False])
def test_only_signed_archives_are_served(
    engine: Engine, cpu_image: str, cpu_archive: Path, tmp_path: Path, signed: bool
) -> None:
    """With TSN_TRUSTED_KEYS an archive needs a signature by one of them, or the container ends."""
    store = _sign_store(cpu_archive, tmp_path)
    if not signed:
        (store / "tiny.mar.sig").unlink()
    mounts = [f"--volume={store}:/models:ro", f"--volume={tmp_path / 'trusted'}:/run/keys:ro"]
    settings = {**OPEN, "TSN_TRUSTED_KEYS": "/run/keys"}
    with engine.start(cpu_image, find_port_row(5), settings, options=mounts, name="signed") as container:
        if signed:
            container.wait_until_healthy()
        else:
            assert container.wait_for_end() != 0
            assert "tiny.mar.sig" in container.logs()


def test_an_idle_container_stops_at_once(fresh: Container) -> None:
    """With nothing in work, stopping takes a moment, not the drain's whole time."""
    began = time.monotonic()
    fresh.engine.run("stop", "--time=40", fresh.name)
    assert fresh.state()["ExitCode"] == 0, fresh.logs()
    assert time.monotonic() - began < 12


def test_models_that_do_not_fit_are_refused(engine: Engine, cpu_image: str) -> None:
    """An unknown model in TSN_WORKERS ends the container with a status over 0 and its name."""
    settings = {**OPEN, "TSN_WORKERS": "other=2"}
    with engine.start(cpu_image, find_port_row(5), settings, name="refused") as container:
        assert container.wait_for_end() != 0
        assert "other" in container.logs()


def test_an_empty_store_is_refused(engine: Engine, cpu_image: str, tmp_path: Path) -> None:
    """A store without an archive ends the container with a status over 0 and its path."""
    tmp_path.chmod(0o755)
    with engine.start(
        cpu_image, find_port_row(5), OPEN, options=[f"--volume={tmp_path}:/models:ro"], name="empty"
    ) as container:
        assert container.wait_for_end() != 0
        assert "/models" in container.logs()


class _Load:
    """Four clients that send the next request when they have an answer, until nobody accepts them any more."""

    def __init__(self, container: Container) -> None:
        self.answers: list[tuple[float, int | str]] = []  # when it was sent, its status or what went wrong
        self._container = container
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Send nothing more, and wait for the answers."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self.answers.append((began, self._container.predict(RED).status_code))
            except requests.RequestException as exc:
                if "refused" in str(exc):
                    return
                self.answers.append((began, repr(exc)))


def _sign_store(archive: Path, folder: Path) -> Path:
    """Return a store with the archive, signed by a new key whose public half lies in ``folder / "trusted"``."""
    store, keys, trusted = (folder / name for name in ("store", "keys", "trusted"))
    for each in (store, trusted):
        each.mkdir()
        each.chmod(0o755)
    folder.chmod(0o755)
    shutil.copyfile(archive, store / "tiny.mar")
    kit = [sys.executable, "-m", "cli.main"]
    subprocess.run([*kit, "keygen", f"--out={keys}"], cwd=ROOT, check=True)
    subprocess.run([*kit, "sign", str(store / "tiny.mar"), f"--key={keys / 'private.pem'}"], cwd=ROOT, check=True)
    shutil.copyfile(keys / "public.pem", trusted / "public.pem")
    return store


def _workers(container: Container) -> list[int]:
    return sorted(pid for pid, _, words in container.processes() if "model_service_worker" in words)


def _other_addresses() -> list[str]:
    """Return addresses of this machine that are not loopback."""
    import psutil

    found = [each.address for rows in psutil.net_if_addrs().values() for each in rows if each.family == socket.AF_INET]
    return [address for address in found if not address.startswith("127.")]
