"""The images' entrypoint with the settings of the manifests, without a cluster: it starts, serves and ends."""

import base64
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests import servers
from tests.manifests import KSERVE, KUBERNETES, ROOT, only, render, settings_of
from tests.ports import find_free_ports
from tests.servers import RECIPES

pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx, the guard")]

RED = (RECIPES / "tiny_red.png").read_bytes()
ENTRYPOINT = [sys.executable, str(ROOT / "docker" / "entrypoint")]
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Pod:
    """A running entrypoint."""

    address: str
    process: "subprocess.Popen[bytes]"
    environment: Mapping[str, str]

    def is_healthy(self) -> bool:
        """Whether the probes' command says so."""
        return subprocess.run([*ENTRYPOINT, "healthcheck"], env=self.environment, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive tiny.mar."""
    return servers.build_archive("tiny", tmp_path_factory.mktemp("tiny"))


def test_the_overlay_serves_who_has_a_token(archive: Path, tmp_path: Path) -> None:
    """With the overlay's settings predictions want the Secret's token, and SIGTERM ends with 0."""
    with _run_pod(tmp_path, archive, settings_of(render(KUBERNETES / "overlays" / "cpu"))) as pod:
        url = f"{pod.address}/predictions/tiny"
        assert requests.post(url, data=RED, timeout=30).status_code == 401
        answer = requests.post(url, data=RED, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        assert max(answer.json(), key=answer.json().get) == "red"
        pod.process.send_signal(signal.SIGTERM)
        assert pod.process.wait(60) == 0


def test_the_runtime_speaks_the_protocols_of_kserve(archive: Path, tmp_path: Path) -> None:
    """With the ServingRuntime's settings v1 and v2 requests are answered, and nothing of management is there."""
    (container,) = only(render(KSERVE), "ServingRuntime", "torchserve-neuron-cpu")["spec"]["containers"]
    text = base64.b64encode(RED).decode()
    with _run_pod(tmp_path, archive, {each["name"]: each["value"] for each in container["env"]}) as pod:
        one = requests.post(f"{pod.address}/v1/models/tiny:predict", json={"instances": [{"b64": text}]}, timeout=30)
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
        two = requests.post(f"{pod.address}/v2/models/tiny/infer", json={"inputs": [tensor]}, timeout=30)
        assert len(one.json()["predictions"]) == 1
        assert {each["name"] for each in two.json()["outputs"]} == {"labels", "probabilities"}
        assert requests.get(f"{pod.address}/models", timeout=30).status_code == 404


@contextmanager
def _run_pod(folder: Path, archive: Path, settings: Mapping[str, str]) -> Iterator[Pod]:
    """Run the entrypoint with ``settings``, folders and ports being those of this machine; healthy at the start."""
    environment = _environment(folder, archive, settings)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(ENTRYPOINT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    pod = Pod(f"http://127.0.0.1:{environment['TSN_PORT']}", process, environment)
    try:
        servers.wait_for(pod.is_healthy, "a healthy server", log=(folder / "log").read_text)
        yield pod
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def _environment(folder: Path, archive: Path, settings: Mapping[str, str]) -> dict[str, str]:
    _mount_secret(folder / "tokens", "tokens", TOKEN)
    ports = find_free_ports(3)
    numbers = zip(("TSN_PORT", "TSN_MANAGEMENT_PORT", "TSN_METRICS_PORT"), map(str, ports), strict=True)
    here = {"TSN_BIND": "127.0.0.1", "TSN_MODEL_STORE": str(archive.parent), "TSN_WORKERS": "tiny=1", **dict(numbers)}
    if "TSN_TOKEN_FILE" in settings:
        here["TSN_TOKEN_FILE"] = str(folder / "tokens" / Path(settings["TSN_TOKEN_FILE"]).name)
    scratch = folder / "scratch"
    scratch.mkdir()
    system = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
    }
    return {**system, **servers.java_home(), **settings, **here, "TSN_FOLDER": str(scratch)}


def _mount_secret(folder: Path, name: str, text: str) -> None:
    """Write a file as the kubelet does: behind two links, in a folder with the sticky bit."""
    (folder / "..2026").mkdir(parents=True)
    (folder / "..2026" / name).write_text(f"{text}\n")
    (folder / "..2026" / name).chmod(0o440)
    (folder / "..data").symlink_to("..2026")
    (folder / name).symlink_to(Path("..data") / name)
    folder.chmod(0o1777)
