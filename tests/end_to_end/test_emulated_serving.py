"""Serving on an emulated Inferentia host: a core for each worker, answers that say they are emulated."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from handlers.cores import LEASE_FOLDER_VARIABLE
from handlers.service import EMULATED_HEADER
from tests.console import run_console as run
from tests.ports import find_port_row

ROOT = Path(__file__).resolve().parents[2]
RED = (ROOT / "tracing" / "recipes" / "tiny_red.png").read_bytes()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a host of its own: leases, emulated cores and run folder that no other test sees."""
    names = ("NEURON_EMULATOR_INSTANCE", "NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment[LEASE_FOLDER_VARIABLE] = str(tmp_path / "leases")
    environment["NEURON_EMULATOR_FOLDER"] = str(tmp_path / "neuron")
    port = find_port_row(5)
    environment["PORT"] = str(port)
    yield environment
    run(environment, "stop", "--port", str(port))


def serve(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Build and serve the smallest recipe."""
    places = ("--store", str(folder / "store"), "--build", str(folder / "build"), "--port", environment["PORT"])
    return run(environment, "serve", "tiny", *places, *words)


def predict(environment: dict[str, str]) -> requests.Response:
    """Send the red picture."""
    url = f"http://127.0.0.1:{environment['PORT']}/predictions/tiny"
    return requests.post(url, data=RED, headers={"Content-Type": "image/png"}, timeout=30)


def describe_emulated_host(environment: dict[str, str], instance: str) -> dict:
    """Return the runtime's own record."""
    code = "import json; from neuron_emulator.runtime import describe_host; print(json.dumps(describe_host()))"
    seen = {**environment, "PYTHONPATH": str(ROOT / "emulator"), "NEURON_EMULATOR_INSTANCE": instance}
    done = subprocess.run([sys.executable, "-c", code], env=seen, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("target", "instance", "cores"),
    [("inf1", "inf1.xlarge", 4), pytest.param("inf2", "inf2.xlarge", 2, marks=pytest.mark.long)],
)
def test_each_worker_has_a_core_of_its_own(
    host: dict[str, str], tmp_path: Path, target: str, instance: str, cores: int
) -> None:
    """As many workers as cores; the runtime's record shows another process on each, and every answer says it."""
    done = serve(host, tmp_path, "--target", target, "--emulate")
    assert f"EMULATED ({instance})" in done.stdout, done.stderr
    answers = [predict(host) for _ in range(24)]
    assert {answer.headers[EMULATED_HEADER] for answer in answers} == {instance}
    assert all(answer.json()["red"] > 0.9 for answer in answers)
    owners = [each["pid"] for each in describe_emulated_host(host, instance)["cores"]]
    assert len(set(owners)) == len(owners) == cores
    assert None not in owners
    assert f"tiny for {target}" in run(host, "status").stdout
    assert f"{cores} workers, ready, EMULATED ({instance})" in run(host, "status").stdout


def test_workers_beyond_the_cores_are_refused_before_the_server_starts(host: dict[str, str], tmp_path: Path) -> None:
    """With the arithmetic in the message."""
    done = serve(host, tmp_path, "--target", "inf1", "--emulate", "--workers", "5")
    assert done.returncode == 1
    assert "5 workers of tiny x 1 core(s) = 5 NeuronCores; inf1.xlarge has 4" in done.stderr
    assert "TorchServe started" not in done.stderr


def test_an_archive_of_both_falls_back_to_the_processor_and_says_so(host: dict[str, str], tmp_path: Path) -> None:
    """Packed for chip and processor on the emulator, served on a host that has neither chip nor emulator."""
    places = ("--store", str(tmp_path / "store"), "--build", str(tmp_path / "build"))
    built = run(host, "mar", "tiny", "--target", "inf1,cpu", "--emulate", *places)
    assert built.returncode == 0, built.stderr
    archive = tmp_path / "store" / "tiny.mar"
    done = run(host, "serve", str(archive), "--port", host["PORT"])
    assert "passed over inf1: it is emulated, and the emulator was not asked for" in done.stderr, done.stderr
    answer = predict(host)
    assert answer.json()["red"] > 0.9
    assert EMULATED_HEADER not in answer.headers
    assert "passed over inf1: it is emulated" in run(host, "status").stdout
    url = f"http://127.0.0.1:{int(host['PORT']) + 1}/models/tiny?customized=true"
    state = requests.get(url, timeout=30).json()[0]["customizedMetadata"]
    assert state["target"] == "cpu"
    assert "emulator was not asked for" in state["passed_over"][0]
