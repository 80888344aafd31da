"""The server of a soak: real TorchServe on free loopback ports, with all that it writes on a small disk of its own."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from handlers import cores
from serving.java import find_java
from serving.processes import end_tree
from serving.server import ROOT

DISK_BYTES = 192 * 1024 * 1024  # of the server's own disk
ROTATE = "200 KB"  # log files are as small as this, so that they rotate within minutes
_START = 120.0  # seconds


@dataclass(frozen=True)
class Host:
    """A running server."""

    folder: Path
    inference: int  # ports
    management: int
    process: "subprocess.Popen[bytes]"
    own_disk: bool  # the server's files lie on a small tmpfs

    @property
    def disk(self) -> Path:
        """Where the server writes: temporary files, logs."""
        return self.folder / "d"

    def ask(self, method: str, path: str, *, timeout: float = 120.0, **query: Any) -> tuple[int, Any]:
        """Return status and JSON of the management API's answer; 0 and the reason if there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.management, timeout=timeout)
        try:
            connection.request(method, path + (f"?{urlencode(query)}" if query else ""))
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content)
        except (OSError, http.client.HTTPException) as exc:
            return 0, f"{type(exc).__name__}: {exc}"
        except ValueError:
            return response.status, content.decode(errors="replace")
        finally:
            connection.close()

    def describe(self, model: str, version: str = "") -> dict[str, Any]:
        """Return TorchServe's description of a model; empty if there is none."""
        status, content = self.ask("GET", f"/models/{model}" + (f"/{version}" if version else ""), timeout=10)
        return content[0] if status == 200 and content else {}

    def worker_pids(self, model: str, version: str = "") -> list[int]:
        """Return the ready workers' process ids, the oldest first."""
        workers = self.describe(model, version).get("workers", [])
        return [int(each["pid"]) for each in workers if each["status"] == "READY" and int(each["pid"]) > 0]

    def models(self) -> list[str]:
        """Return the names of the registered models."""
        status, content = self.ask("GET", "/models", timeout=10, limit=100)
        return sorted(each["modelName"] for each in content["models"]) if status == 200 else []

    def all_worker_pids(self) -> dict[int, str]:
        """Return the ready workers of every model and version."""
        found = {}
        for model in self.models():
            status, content = self.ask("GET", f"/models/{model}/all", timeout=10)
            for version in content if status == 200 else []:
                ready = [each for each in version["workers"] if each["status"] == "READY"]
                found.update({int(each["pid"]): f"{model} {version['modelVersion']}" for each in ready})
        return found

    def java(self) -> psutil.Process | None:
        """Return the JVM."""
        return next((each for each in self.processes() if _name(each) == "java"), None)

    def processes(self, *, zombies: bool = False) -> list[psutil.Process]:
        """Return the living processes of the server's session, or those that nobody has collected."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = os.getsid(process.pid) == self.process.pid
                if mine and (process.status() == psutil.STATUS_ZOMBIE) == zombies:
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    def holders(self) -> list[cores.Holder]:
        """Return who holds which core."""
        return cores.lease_holders(self.folder / "leases")


@contextmanager
def run_host(archives: Sequence[Path], loaded: Mapping[str, Path], environment: Mapping[str, str]) -> Iterator[Host]:
    """Serve the ``loaded`` archives by name for the time of a ``with``; ``archives`` lie in the store besides."""
    folder = Path(tempfile.mkdtemp(prefix="tsn-soak-", dir="/tmp"))
    mounted = False
    host = None
    try:
        for name in ("d", "store", "leases"):
            (folder / name).mkdir()
        mounted = _mount(folder / "d")
        for name in ("t", "logs"):
            (folder / "d" / name).mkdir()
        for archive in {*archives, *loaded.values()}:
            shutil.copyfile(archive, folder / "store" / archive.name)
        host = _start(folder, loaded, environment, mounted)
        yield host
    finally:
        if host is not None:
            stop(host)
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder / "d")], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def stop(host: Host) -> list[psutil.Process]:
    """End the server as an operator does; return the processes that it left behind, ended as well."""
    if host.process.poll() is None:
        end_tree(psutil.Process(host.process.pid))
    host.process.wait()
    deadline = time.monotonic() + 40  # a worker that was just started waits 30 s for its server
    while host.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = host.processes()
    for process in left:
        process.kill()
    return left


def _start(folder: Path, loaded: Mapping[str, Path], environment: Mapping[str, str], mounted: bool) -> Host:
    ports = _find_ports(5)
    config = folder / "config.properties"
    config.write_text(render_config(folder, loaded, ports))
    log_config = (ROOT / "serving" / "log4j2-info.xml").read_text().replace("10 MB", ROTATE)
    (folder / "log4j2.xml").write_text(log_config)
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--ts-config", str(config)]
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            [*command, "--log-config", str(folder / "log4j2.xml")],
            cwd=folder,
            env=_environment(folder, environment),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    host = Host(folder, ports[0], ports[1], process, mounted)
    try:
        _wait_for_models(host, list(loaded))
    except BaseException:
        stop(host)
        raise
    return host


def render_config(folder: Path, loaded: Mapping[str, Path], ports: Sequence[int]) -> str:
    """Return the kit's own settings with this server's addresses and folders, and models that may be registered."""
    own: dict[str, object] = {
        "inference_address": f"http://127.0.0.1:{ports[0]}",
        "management_address": f"http://127.0.0.1:{ports[1]}",
        "metrics_address": f"http://127.0.0.1:{ports[2]}",
        "grpc_inference_port": ports[3],
        "grpc_management_port": ports[4],
        "enable_envvars_config": "false",
        "model_store": folder / "store",
        "load_models": ",".join(f"{name}={archive.name}" for name, archive in loaded.items()),
        "default_workers_per_model": 2,
        "enable_model_api": "true",
        # The whole heap is touched at the start, so that what grows later is a leak.
        "vmargs": "-Xms384m -Xmx384m -XX:+AlwaysPreTouch",
    }
    lines = (ROOT / "config.properties").read_text().splitlines()
    kept = [each for each in lines if each.partition("=")[0] not in own and not each.startswith("#")]
    return "\n".join([*filter(None, kept), *(f"{name}={value}" for name, value in own.items())]) + "\n"


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TS_", "TORCHSERVE"))}
    temporary = str(folder / "d" / "t")
    own = {
        **dict.fromkeys(("TEMP", "TMPDIR"), temporary),
        **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(folder / "d" / "logs")),
        "JAVA_HOME": str(find_java().home),
        cores.LEASE_FOLDER_VARIABLE: str(folder / "leases"),
        "NEURON_EMULATOR_FOLDER": str(folder / "chips"),
    }
    return {**kept, **own, **more}


def _wait_for_models(host: Host, names: Sequence[str]) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        if host.process.poll() is not None:
            break
        if all(len(host.worker_pids(name)) >= 2 for name in names):
            return
        time.sleep(0.2)
    tail = (host.folder / "console.log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"TorchServe did not get {', '.join(names)} ready within {_START:.0f} s: {tail}")


def _mount(folder: Path) -> bool:
    """Put a small disk on a folder, where this user may."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        return False
    options = f"size={DISK_BYTES},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "soak", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def _find_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


STOP, CONTINUE, KILL = signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL
