"""Podman with a storage of the suite's own: nothing of the user's images and containers is touched."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

# Where the bootstrapped base, wheels, images and layers stay between runs; about 8 GB.
CACHE_VARIABLE = "TORCHSERVE_NEURON_CONTAINER_CACHE"
_LIMITS = ("nofile=1024:1024", "nproc=1000:1000")  # a host's own hard limits may be lower than what podman asks for


def why_not() -> str:
    """Return why containers cannot be built and run here, or ""."""
    missing = [name for name in ("podman", "runc", "debootstrap") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt install podman runc debootstrap)"
    if os.geteuid() != 0:
        return "not root: the suite bootstraps a Debian and runs podman as root"
    return ""


@dataclass(frozen=True)
class Container:
    """A started container in the host's network, so that its ports are those of 127.0.0.1."""

    name: str
    engine: "Engine"
    port: int  # inference; management and metrics follow

    def predict(self, body: bytes, path: str = "/predictions/tiny", **options: Any) -> requests.Response:
        """Return the answer to a prediction."""
        options.setdefault("timeout", 30)
        return requests.post(f"http://127.0.0.1:{self.port}{path}", data=body, **options)

    def logs(self) -> str:
        """Return what the container has printed."""
        done = self.engine.run("logs", self.name, check=False)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """Return podman's view: ``Status``, ``ExitCode``, ``Pid`` and more."""
        state: dict[str, Any] = json.loads(self.engine.run("inspect", self.name).stdout)[0]["State"]
        return state

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Return what a command did inside."""
        return self.engine.run("exec", self.name, *words, check=False)

    def processes(self) -> list[tuple[int, int, str]]:
        """Return (pid on the host, user id, command line) of all that runs inside."""
        rows = self.engine.run("top", self.name, "hpid", "huser", "args").stdout.splitlines()[1:]
        return [(int(pid), int(user), args) for pid, user, args in (row.split(None, 2) for row in rows)]

    def is_healthy(self) -> bool:
        """Whether the image's own HEALTHCHECK says so now."""
        return self.engine.run("healthcheck", "run", self.name, check=False).returncode == 0

    def wait_until_healthy(self, seconds: float = 120) -> None:
        """Return when the HEALTHCHECK passes; raise ``AssertionError`` with the log if it never does."""
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            assert self.state()["Status"] == "running", self.logs()[-4000:]
            assert time.monotonic() < deadline, f"not healthy after {seconds} s\n{self.logs()[-4000:]}"
            time.sleep(0.2)

    def wait_for_end(self, seconds: float = 60) -> int:
        """Return the exit status once the container has ended; raise ``AssertionError`` if it never does."""
        deadline = time.monotonic() + seconds
        while self.state()["Status"] not in ("exited", "stopped"):
            assert time.monotonic() < deadline, f"still runs after {seconds} s\n{self.logs()[-4000:]}"
            time.sleep(0.1)
        status: int = self.state()["ExitCode"]
        return status


class Engine:
    """Podman, by commands, with its images and containers below ``folder``."""

    def __init__(self, folder: Path) -> None:
        """Write the settings; the folder is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        storage, settings = folder / "storage.conf", folder / "containers.conf"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n')
        settings.write_text(
            f"[containers]\ndefault_ulimits = {json.dumps(_LIMITS)}\nlog_driver = 'k8s-file'\n"
            "[engine]\nruntime = 'runc'\ncgroup_manager = 'cgroupfs'\nevents_logger = 'file'\n"
        )
        self.folder = folder
        # chroot: a build step then needs no runtime of its own.
        self.environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(settings),
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *words: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Return what podman did; raise ``AssertionError`` with its words if it fails and ``check`` is set."""
        command = ["podman", "--log-level=fatal", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def has_image(self, tag: str) -> bool:
        """Whether there is such an image."""
        return self.run("image", "exists", tag, check=False).returncode == 0

    def inspect(self, tag: str) -> dict[str, Any]:
        """Return the image's configuration."""
        config: dict[str, Any] = json.loads(self.run("image", "inspect", tag).stdout)[0]
        return config

    @contextmanager
    def start(
        self, image: str, port: int, environment: Mapping[str, str], *, options: Sequence[str] = (), name: str = "tsn"
    ) -> Iterator[Container]:
        """Run an image as the documentation says: read-only, without capabilities; gone after the ``with``."""
        name = f"{name}-{port}"
        ports = {"TSN_PORT": port, "TSN_MANAGEMENT_PORT": port + 1, "TSN_METRICS_PORT": port + 2}
        settings = {**{key: str(value) for key, value in ports.items()}, **environment}
        words = [part for key, value in settings.items() for part in ("--env", f"{key}={value}")]
        self.run("run", "--detach", "--name", name, "--network=host", *HARDENED, *options, *words, image)
        try:
            yield Container(name, self, port)
        finally:
            self.run("rm", "--force", "--time=0", name, check=False)


# The options of the documentation's run line.
HARDENED = (
    "--read-only",
    "--tmpfs=/var/lib/torchserve-neuron:rw,exec,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)
