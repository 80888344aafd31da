"""The image for inf1 on a stand-in for AWS's container: EMULATED, with TorchServe 0.11.0; no chip computes anything."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.engine import Container, Engine
from tests.ports import find_port_row
from tests.servers import RECIPES, wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]  # the first fixture bootstraps and builds
RED = (RECIPES / "tiny_red.png").read_bytes()
HOST = {"NEURON_EMULATOR_INSTANCE": "inf1.xlarge", "EMULATE": "1"}
OPEN = {**HOST, "TSN_BIND": "127.0.0.1", "TSN_TOKENS": "0"}


@pytest.fixture(scope="module")
def running(engine: Engine, inf1_image: str) -> Iterator[Container]:
    """One container on an emulated inf1.xlarge, with as many workers as the entrypoint chooses."""
    with engine.start(inf1_image, find_port_row(5), OPEN, name="inf1") as container:
        container.wait_until_healthy(180)
        yield container


def test_nothing_of_the_base_starts(engine: Engine, inf1_image: str) -> None:
    """The base's entrypoint and arguments, which outlive TorchServe, are replaced."""
    config = engine.inspect(inf1_image)["Config"]
    assert config["Entrypoint"] == ["python", "/opt/torchserve-neuron/entrypoint"]
    assert not config.get("Cmd")
    assert config["User"] == "10001:10001"


def test_every_core_has_a_worker(running: Container) -> None:
    """An inf1.xlarge has four NeuronCores: four workers, though the machine has another number of processors."""
    wait_for(lambda: len(_workers(running)) == 4, "four workers", log=running.logs)


def test_an_answer_says_that_it_is_emulated(running: Container) -> None:
    """The picture is answered, by an emulated chip, and the answer says so."""
    answer = running.predict(RED)
    assert (answer.status_code, next(iter(answer.json()))) == (200, "red")
    assert answer.headers["X-Neuron-Emulated"] == "inf1.xlarge"


def test_a_killed_worker_finds_a_core_again(running: Container) -> None:
    """The lease of a killed worker is free for its successor: the container is healthy again."""
    before = _workers(running)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: len(_workers(running)) == 4 and _workers(running) != before, "a successor", log=running.logs)
    running.wait_until_healthy()
    assert running.predict(RED).status_code == 200


def test_stopping_ends_with_0(engine: Engine, inf1_image: str) -> None:
    """TorchServe 0.11.0 is stopped as 0.12.0 is."""
    with engine.start(inf1_image, find_port_row(5), {**OPEN, "TSN_WORKERS": "tiny=1"}, name="stopped") as container:
        container.wait_until_healthy(180)
        engine.run("stop", "--time=40", container.name)
        assert container.state()["ExitCode"] == 0, container.logs()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**OPEN, "TSN_WORKERS": "tiny=9"}, ["9", "4"]),
        ({**HOST, "TSN_BIND": "0.0.0.0"}, ["0.11.0", "TSN_GUARD"]),
    ],
    ids=["more workers than cores", "open without tokens"],
)
def test_it_refuses(engine: Engine, inf1_image: str, settings: dict[str, str], said: list[str]) -> None:
    """What does not fit, or would be open to all, ends the container with a status over 0 and the reason."""
    with engine.start(inf1_image, find_port_row(5), settings, name="refused") as container:
        assert container.wait_for_end() != 0
        assert all(each in container.logs() for each in said), container.logs()


def test_the_guard_asks_for_tokens(engine: Engine, inf1_image: str, tmp_path: Any) -> None:
    """nginx in front of TorchServe 0.11.0: without a token 401, with one the answer, and no management."""
    tmp_path.chmod(0o755)
    (tmp_path / "tokens").write_text("a-long-and-secret-token-of-a-test\n")
    (tmp_path / "tokens").chmod(0o644)
    settings = {**HOST, "TSN_GUARD": "1", "TSN_TOKEN_FILE": "/run/secrets/tokens", "TSN_WORKERS": "tiny=1"}
    options = [f"--volume={tmp_path / 'tokens'}:/run/secrets/tokens:ro"]
    with engine.start(inf1_image, find_port_row(5), settings, options=options, name="guarded") as container:
        container.wait_until_healthy(180)
        token = {"Authorization": "Bearer a-long-and-secret-token-of-a-test"}
        assert container.predict(RED).status_code == 401
        assert container.predict(RED, headers=token).status_code == 200
        assert container.predict(RED, "/models", headers=token).status_code == 404


def _workers(container: Container) -> list[int]:
    return sorted(pid for pid, _, words in container.processes() if "model_service_worker" in words)
