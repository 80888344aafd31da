"""The servers that a benchmark compares: the kit's as ``make serve`` starts it, and TorchServe as it is shipped."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests
import torch

from handlers.artifact import Record
from serving.errors import ServerError
from serving.java import find_java
from serving.ports import Ports, ensure_free
from serving.processes import end_tree
from serving.runs import RunFolder, find_process
from serving.server import ServeSettings, start, stop
from tracing.loading import build_model, importing_from, load_recipe, with_any_weights

STOCK_BATCH = 8  # requests that one batch holds at most, in every system
_STOCK_DELAY = 5  # milliseconds that TorchServe's examples wait for a batch to fill
_PATIENCE = 120.0  # seconds for a server to be ready
_ROOT = Path(__file__).resolve().parent.parent
_WORKERS = ("model_service_worker.py", "triton_python_backend_stub")  # TorchServe's, Triton's


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    name: str
    port: int  # of inference; management and metrics follow
    path: str  # of predictions
    server: psutil.Process  # the JVM, or the peer's own
    logs: Path  # the folder that the server logs to
    seconds: float  # from the launch to the first right answer
    headers: Mapping[str, str] = field(default_factory=dict)  # that its requests need beside the usual ones
    decode: Callable[[bytes], bytes] = bytes  # from an answer's body to its JSON; raises ValueError

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes that live."""
        return find_workers(self.server)


def find_workers(server: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes of a server that live."""
    found = []
    for each in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(word.endswith(_WORKERS) for word in each.cmdline()):
                found.append(each)
    return found


def launch(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a server in a folder, in a session of its own, with what it prints in ``logs/console.log``."""
    (folder / "logs").mkdir()
    with (folder / "logs" / "console.log").open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def run_kit(archive: Path, record: Record, port: int, *, workers: int = 0) -> Iterator[Running]:
    """Serve an archive as ``make serve`` does, for the time of a ``with``; raise ``ServerError``."""
    settings = ServeSettings(port=port, workers=workers)
    began = time.monotonic()
    served = start(archive, record, settings, progress=lambda line: None)
    try:
        seconds = time.monotonic() - began
        server = find_process(served.state)
        if server is None:
            raise ServerError("the server has ended")
        yield Running("kit", port, f"/predictions/{record.name}", server, RunFolder(port).logs, seconds)
    finally:
        stop(port)


@contextmanager
def run_stock(model: str, port: int, *, workers: int) -> Iterator[Running]:
    """Serve a recipe's picture classifier the stock way, for the time of a ``with``; raise ``ServerError``.

    TorchServe's own archiver and launcher, a handler as its documentation teaches, its own defaults for all but the
    addresses, the number of workers, and the batch, which is the kit's.
    """
    with tempfile.TemporaryDirectory(prefix="stock-") as name:
        folder = Path(name)
        record = _pack_stock(model, folder)
        ensure_free(Ports.starting_at(port))
        began = time.monotonic()
        process = _launch_stock(folder, port, workers)
        try:
            _wait_for_workers(process, port, workers)
            server = next(
                each for each in psutil.Process(process.pid).children(recursive=True) if "java" in each.name()
            )
            running = Running(f"stock, {workers} worker(s)", port, "/predictions/stock", server, folder / "logs", 0.0)
            _ask(running, record)
            yield Running(running.name, port, running.path, server, running.logs, time.monotonic() - began)
        finally:
            with contextlib.suppress(psutil.Error):
                end_tree(psutil.Process(process.pid))


def trace_pictures(model: str, folder: Path) -> tuple[bytes, str]:
    """Write a recipe's classifier as ``model.pt`` and ``settings.json``; return a golden request's body and type."""
    loaded = with_any_weights(load_recipe(model))
    recipe = loaded.recipe
    if recipe.handler != "image_classifier":
        raise ServerError(f"{model} has the handler {recipe.handler}; the comparison is for image classifiers")
    with importing_from(loaded.folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        shape = [STOCK_BATCH, *(int(size) for size in recipe.inputs[0].shape[1:])]
        traced = torch.jit.trace(build_model(loaded).eval(), torch.zeros(shape))  # type: ignore[no-untyped-call]
    traced.save(str(folder / "model.pt"))
    height, width = shape[2:]
    settings = {"labels": list(recipe.settings["labels"]), "height": height, "width": width}
    settings["mean"] = list(recipe.settings.get("mean", (0, 0, 0)))
    settings["std"] = list(recipe.settings.get("std", (1, 1, 1)))
    (folder / "settings.json").write_text(json.dumps(settings))
    return (loaded.folder / str(recipe.golden[0])).read_bytes(), "image/png"


def _pack_stock(model: str, folder: Path) -> tuple[bytes, str]:
    """Write ``folder/store/stock.mar``; return a golden request's body and type."""
    golden = trace_pictures(model, folder)
    config = {"batchSize": STOCK_BATCH, "maxBatchDelay": _STOCK_DELAY}
    (folder / "model-config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))
    (folder / "store").mkdir()
    command = [sys.executable, "-c", "from model_archiver.model_packaging import *; generate_model_archive()"]
    command += ["--model-name", "stock", "--version", "1.0", "--serialized-file", str(folder / "model.pt")]
    command += ["--handler", str(_ROOT / "benchmarking" / "stock_handler.py"), "--export-path", str(folder / "store")]
    command += ["--extra-files", str(folder / "settings.json"), "--config-file", str(folder / "model-config.yaml")]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    return golden


def _launch_stock(folder: Path, port: int, workers: int) -> "subprocess.Popen[bytes]":
    ports = Ports.starting_at(port)
    config = {
        "inference_address": f"http://127.0.0.1:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://127.0.0.1:{ports.metrics}",
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_port": ports.grpc_management,
        "default_workers_per_model": workers,
    }
    (folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in config.items()))
    (folder / "temp").mkdir()
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    command += ["--ts-config", str(folder / "config.properties"), "--model-store", str(folder / "store")]
    command += ["--models", "stock=stock.mar"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
    environment.update(JAVA_HOME=str(find_java().home), TEMP=str(folder / "temp"), TMPDIR=str(folder / "temp"))
    environment.update(LOG_LOCATION=str(folder / "logs"), METRICS_LOCATION=str(folder / "logs"))
    return launch(command, folder, environment)


def _wait_for_workers(process: "subprocess.Popen[bytes]", port: int, workers: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"the stock server ended with status {process.returncode}")
        with contextlib.suppress(requests.RequestException, ValueError, LookupError):
            described = requests.get(f"http://127.0.0.1:{port + 1}/models/stock", timeout=5).json()[0]
            if sum(each["status"] == "READY" for each in described["workers"]) >= workers:
                return
        time.sleep(0.02)
    raise ServerError(f"the stock server has no {workers} workers after {_PATIENCE:.0f} s")


def _ask(running: Running, golden: tuple[bytes, str]) -> None:
    body, kind = golden
    url = f"http://127.0.0.1:{running.port}{running.path}"
    answer = requests.post(url, data=body, headers={"Content-Type": kind}, timeout=60)
    if answer.status_code != 200:
        raise ServerError(f"the stock server answers {answer.status_code}: {answer.text[:300]}")
