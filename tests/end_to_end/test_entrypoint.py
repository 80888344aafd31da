"""The container's entrypoint as a process: it serves, tells its health, ends as the server ends, stops when told."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests import servers
from tests.entrypoints import Entrypoint, make_environment, run_command, run_entrypoint

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed (Debian: nginx-light)"
)
TOKEN = "0123456789abcdefABCDEF"


@pytest.fixture(scope="module")
def running(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entrypoint]:
    """One container with TorchServe 0.12 and its tokens; the last test ends it."""
    with run_entrypoint(tmp_path_factory.mktemp("served"), tiny_archive.parent, workers="tiny=1") as entrypoint:
        yield entrypoint


def test_predictions_are_right_with_the_token(running: Entrypoint, good: list[tuple[bytes, Any]]) -> None:
    """A client that sends the key of key_file.json gets the archive's golden answer."""
    body, answer = good[0]
    reply = running.predict(body, headers={"Authorization": f"Bearer {running.key()}"})
    assert reply.json() == pytest.approx(answer, abs=1e-4)


def test_predictions_without_the_token_are_refused(running: Entrypoint, good: list[tuple[bytes, Any]]) -> None:
    """TorchServe's tokens are on without being asked for."""
    assert running.predict(good[0][0]).status_code == 400


def test_models_have_the_planned_workers(running: Entrypoint) -> None:
    """One worker was asked for, and one there is, whatever the number of processors."""
    headers = {"Authorization": f"Bearer {running.key('management')}"}
    described = requests.get(f"http://127.0.0.1:{running.ports[1]}/models/tiny", headers=headers, timeout=10).json()
    assert (described[0]["minWorkers"], described[0]["maxWorkers"]) == (1, 1)


def test_a_lost_worker_makes_the_container_unhealthy(running: Entrypoint) -> None:
    """While a worker is dead the health check says how many are ready; then it passes again."""
    worker = next(each for each in running.java().children() if "model_service_worker" in " ".join(each.cmdline()))
    worker.kill()
    servers.wait_for(lambda: "0 of 1 workers" in running.command("healthcheck").stdout, "the worker missed", seconds=10)
    servers.wait_for(running.is_healthy, "a new worker", log=running.log)


def test_a_server_killed_inside_ends_the_container_with_its_status(running: Entrypoint) -> None:
    """137, as a shell tells SIGKILL; nothing stays alive."""
    processes = psutil.Process(running.process.pid).children(recursive=True)
    running.java().kill()
    assert running.process.wait(30) == 128 + signal.SIGKILL
    assert psutil.wait_procs(processes, timeout=10)[1] == []


@needs_nginx
def test_release_0_11_behind_the_guard_serves_and_stops_with_status_0(
    tiny_archive: Path, tmp_path: Path, good: list[tuple[bytes, Any]]
) -> None:
    """TorchServe 0.11.0 listens on a socket alone; the guard asks for its tokens; SIGTERM ends with status 0."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# first\n{TOKEN}\n")
    old = [servers.install_torchserve("0.11.0")]
    settings = {"workers": "tiny=1", "guard": 1, "token_file": tokens, "bind": "0.0.0.0"}
    with run_entrypoint(tmp_path / "c", tiny_archive.parent, python_path=old, **settings) as entrypoint:
        body, answer = good[0]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert entrypoint.predict(body, headers=headers).json() == pytest.approx(answer, abs=1e-4)
        assert entrypoint.predict(body).status_code == 401
        assert requests.get(f"{entrypoint.url}/models", headers=headers, timeout=5).status_code == 404
        assert entrypoint.stop() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": "tiny=99"}, r"tiny 99 x 1 = 99 processors, and there are \d+"),
        ({"memory_limit": "500m"}, r"server 0\.45 \+ tiny 1 x 0\.40 = 0\.85 GiB, and the limit is 0\.49 GiB"),
        ({"models": "bert"}, r"TSN_MODELS names bert; the model store has tiny \(tiny\.mar\)"),
        ({"management_bind": "0.0.0.0", "tokens": 0}, "opens the management API"),
        ({"guard": 1, "bind": "0.0.0.0"}, "TSN_GUARD=1 wants TSN_TOKEN_FILE"),
        ({"trusted_keys": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_refused_before_the_start(
    tiny_archive: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    """Status 2, the reason in the log, and no server."""
    done = run_command("serve", make_environment(tmp_path, tiny_archive.parent, [1, 2, 3], **settings))
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def test_release_0_11_refuses_everybodys_address(tiny_archive: Path, tmp_path: Path) -> None:
    """It has no tokens: an address beyond loopback wants the guard, or TSN_TOKENS=0 said aloud."""
    environment = make_environment(tmp_path, tiny_archive.parent, [1, 2, 3], bind="0.0.0.0")
    environment["PYTHONPATH"] = str(servers.install_torchserve("0.11.0"))
    done: subprocess.CompletedProcess[str] = run_command("plan", environment)
    assert (done.returncode, "TorchServe 0.11.0 has no tokens" in done.stderr) == (2, True)
    assert run_command("plan", {**environment, "TSN_TOKENS": "0"}).returncode == 0
