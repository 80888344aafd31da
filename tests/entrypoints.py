"""The container's entrypoint on this machine: real processes, own ports and folders, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from tests import servers
from tests.ports import find_free_ports
from tests.servers import ROOT

# Images run it as a folder, from where it finds itself; tests import its modules by the same name.
if str(ROOT / "docker") not in sys.path:
    sys.path.insert(0, str(ROOT / "docker"))


@dataclass(frozen=True)
class Entrypoint:
    """A running entrypoint, or a finished one."""

    folder: Path
    ports: Sequence[int]  # inference, management, metrics
    environment: Mapping[str, str] = field(repr=False)
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def url(self) -> str:
        """The inference address."""
        return f"http://127.0.0.1:{self.ports[0]}"

    def command(self, name: str) -> "subprocess.CompletedProcess[str]":
        """Return what another command of the entrypoint did beside the running one."""
        return run_command(name, self.environment)

    def is_healthy(self) -> bool:
        """Whether the health check passes."""
        assert self.process.poll() is None, f"the entrypoint has ended:\n{self.log()[-4000:]}"
        return self.command("healthcheck").returncode == 0

    def key(self, kind: str = "inference") -> str:
        """Return TorchServe's own token."""
        keys = json.loads((self.folder / "run" / "key_file.json").read_text())
        return str(keys[kind]["key"])

    def predict(self, body: bytes, **options: Any) -> requests.Response:
        """Return the answer to a prediction by ``tiny``."""
        options.setdefault("timeout", 20)
        return requests.post(f"{self.url}/predictions/tiny", data=body, **options)

    def java(self) -> psutil.Process:
        """Return TorchServe's process."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if child.name() == "java")

    def log(self) -> str:
        """Return what it has printed."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self, seconds: float = 60) -> int:
        """Return the exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def make_environment(folder: Path, store: Path, ports: Sequence[int], **settings: object) -> dict[str, str]:
    """Return the environment of an entrypoint; ``settings`` are TSN_... without the prefix, in small letters."""
    own = {
        "MODEL_STORE": store,
        "FOLDER": folder / "run",
        "BIND": "127.0.0.1",
        "PORT": ports[0],
        "MANAGEMENT_PORT": ports[1],
        "METRICS_PORT": ports[2],
        "HEAP": "256m",
    }
    own.update({name.upper(): value for name, value in settings.items()})
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TSN_", "TS_", "TORCHSERVE"))}
    return {**kept, **servers.java_home(), **{f"TSN_{name}": str(value) for name, value in own.items()}}


def run_command(name: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Return what ``plan`` or ``healthcheck`` did."""
    command = [sys.executable, str(ROOT / "docker" / "entrypoint"), name]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=60)


@contextmanager
def run_entrypoint(
    folder: Path, store: Path, *, python_path: Sequence[Path] = (), **settings: object
) -> Iterator[Entrypoint]:
    """Run the entrypoint for the time of a ``with``; it is there when its health check passes."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = find_free_ports(3)
    environment = make_environment(folder, store, ports, **settings)
    if python_path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, python_path))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "docker" / "entrypoint")],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Entrypoint(folder, ports, environment, process)
    try:
        servers.wait_for(running.is_healthy, "a healthy container", log=running.log)
        yield running
    finally:
        _end(running)


def _end(running: Entrypoint) -> None:
    left = []
    if running.process.poll() is None:
        left = psutil.Process(running.process.pid).children(recursive=True)
        running.process.kill()
        running.process.wait()
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=20)
