"""The time from a start to the first right answer, where it goes, and what a further worker takes.

``python -m benchmarking.start MODEL`` starts servers in turn, the kit's way (``make serve``) and TorchServe's own
(``torchserve --start`` with the same settings), and prints the median of each step and the ratios of the two.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import requests

from benchmarking.figures import interval, ratio
from benchmarking.systems import find_workers
from cli.building import ensure_archive
from handlers.artifact import Record
from serving.errors import ServerError
from serving.java import find_java
from serving.launching import PID_FILE, plan_launch
from serving.ports import Ports
from serving.readiness import wait_until_ready
from serving.requesting import Client
from serving.runs import RunFolder, RunState, read_start
from serving.server import ROOT, Served, ServeSettings, make_environment, start, stop
from serving.workers import plan_crew
from tracing.checking import read_archive_record

_LOOK = 0.01  # seconds between two looks at the port
_ADDING = 60.0  # seconds that a further worker may take
_WAIT = 90.0  # seconds that a start may take
Starter = Callable[[Path, Record, ServeSettings], object]


@dataclass(frozen=True)
class Timeline:
    """One start: seconds since it was asked for, and processor seconds until its first answer."""

    listening: float  # the frontend takes connections
    spawned: float  # the first worker's process begins
    imported: float  # a worker begins to load its model: interpreter, TorchServe, torch
    ready: float  # it has loaded and checked it
    answer: float  # the first right answer has arrived
    adding: float  # of their own: what one more worker takes, until the server calls it ready
    jvm_cpu: float
    worker_cpu: float  # of all workers together


def start_kit(archive: Path, record: Record, settings: ServeSettings) -> Served:
    """Start a server as ``make serve`` does; raise ``ServerError``."""
    return start(archive, record, settings, progress=lambda line: None)


def start_plain(archive: Path, record: Record, settings: ServeSettings) -> None:
    """Start a server with TorchServe's own launcher and the kit's ``config.properties``; raise ``ServerError``.

    Its addresses and its number of workers are the only differences from the command in README.
    """
    folder, java, ports = RunFolder(settings.port), find_java(), Ports.starting_at(settings.port)
    folder.create()
    workers = plan_crew(record, settings.workers).workers
    environment = make_environment(dict(os.environ), ports, java, settings, folder, workers)
    command = [sys.executable, "-m", "ts.model_server", "--start", "--ncs", "--ts-config", str(settings.config)]
    command += ["--model-store", str(archive.resolve().parent), "--models", f"{record.name}={archive.name}"]
    command += ["--log-config", str(ROOT / "serving" / f"log4j2-{settings.log}.xml")]
    with (folder.logs / "console.log").open("wb") as console:
        subprocess.run(command, cwd=folder.path, env=environment, stdout=console, stderr=console, check=True)
    pid = int((folder.temporary / PID_FILE).read_text())
    state = RunState(settings.port, pid, read_start(psutil.Process(pid)), record.name, str(archive), "", {})
    folder.write(state)
    with zipfile.ZipFile(archive) as opened:
        body = opened.read(record.golden[0].file)
    client = Client(settings.port, folder.path)
    wait_until_ready(client, state, record, body, folder, _WAIT, progress=lambda line: None)


def measure_start(starter: Starter, archive: Path, record: Record, settings: ServeSettings) -> Timeline:
    """Return one start's timeline; the server is stopped again. Raises ``ServerError``."""
    began, seconds = time.time(), time.monotonic()
    heard: list[float] = []
    threading.Thread(target=_listen, args=(settings.port, heard, seconds), daemon=True).start()
    try:
        starter(archive, record, settings)
        answer = time.monotonic() - seconds
        state = RunFolder(settings.port).read()
        if state is None:
            raise ServerError(f"the server on port {settings.port} has ended")
        jvm = psutil.Process(state.pid)
        workers = find_workers(jvm)
        cpu = [sum(each.cpu_times()[:2]) for each in (jvm, *workers)]
        ready, loading = _ask_worker(settings.port, record)
        ready -= began
        return Timeline(
            listening=heard[0] if heard else float("nan"),
            spawned=min(each.create_time() for each in workers) - began,
            imported=ready - loading,
            ready=ready,
            answer=answer,
            adding=add_worker(settings.port, record.name, len(workers) + 1),
            jvm_cpu=cpu[0],
            worker_cpu=sum(cpu[1:]),
        )
    finally:
        stop(settings.port)


def _ask_worker(port: int, record: Record) -> tuple[float, float]:
    """Return when a worker became ready, in seconds since 1970, and the seconds that its own part took."""
    client = Client(port, RunFolder(port).path)
    described = client.describe(record.name, customized=True, timeout=10)
    if not described:
        raise ServerError(f"the server on port {port} does not describe {record.name}")
    told = described[0]["customizedMetadata"]
    return float(told["ready_since"]), float(sum(told["start_seconds"].values()))


def add_worker(port: int, model: str, workers: int) -> float:
    """Return the seconds until a running server has so many workers; raise ``ServerError`` if it gets them not."""
    began = time.monotonic()
    url = f"http://127.0.0.1:{port + 1}/models/{model}?min_worker={workers}&synchronous=true"
    try:
        answer = requests.put(url, timeout=_ADDING)
    except requests.RequestException as exc:
        raise ServerError(f"adding a worker: {type(exc).__name__}: {exc}") from exc
    if answer.status_code != 200:
        raise ServerError(f"adding a worker: {answer.status_code}: {answer.text[:300]}")
    return time.monotonic() - began


def _listen(port: int, heard: list[float], began: float) -> None:
    """Note when the port takes a connection."""
    while not heard and time.monotonic() < began + _WAIT:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            heard.append(time.monotonic() - began)
        time.sleep(_LOOK)


def _wait_for_classes(settings: ServeSettings) -> None:
    """Let the archive of classes that the first start asked for be finished: it would take time from the next ones."""
    classes, began = plan_launch(find_java(), settings.config).classes, time.monotonic()
    while classes is not None and time.monotonic() < began + _ADDING:
        if classes.is_whole() or classes.failed.exists():
            return
        time.sleep(0.1)


def format_table(turns: dict[str, list[Timeline]]) -> str:
    """Return the medians of each step and way, lowest and highest in brackets, and the ratios of turns, as Markdown."""
    names = list(turns)
    lines = [f"| s | {' | '.join(names)} | ratio |", "|---|" + "---:|" * (len(names) + 1)]
    for step in asdict(next(iter(turns.values()))[0]):
        runs = [[asdict(each)[step] for each in turns[name]] for name in names]
        cells = [f"{interval(each).value:.2f} ({min(each):.2f}-{max(each):.2f})" for each in runs]
        found = ratio(runs[0], runs[-1])
        lines.append(f"| {step} | {' | '.join(cells)} | {found.value:.2f} ({found.low:.2f}-{found.high:.2f}) |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarking.start", description=__doc__)
    parser.add_argument("model", help="recipe, or a .mar")
    parser.add_argument("--turns", type=int, default=5, help="starts of each way (default 5)")
    parser.add_argument("--workers", type=int, default=0, help="default: one for each processor")
    parser.add_argument("--port", type=int, default=18180)
    parser.add_argument("--json", type=Path, help="write every timeline there")
    options = parser.parse_args(words)
    store = Path(os.environ.get("MODEL_STORE", ROOT / "model_store"))
    built = not options.model.endswith(".mar")
    archive = ensure_archive(options.model, store=store, build=ROOT / "build") if built else Path(options.model)
    record, settings = read_archive_record(archive), ServeSettings(port=options.port, workers=options.workers)
    ways: dict[str, Starter] = {"kit": start_kit, "torchserve --start": start_plain}
    measure_start(start_kit, archive, record, settings)
    _wait_for_classes(settings)
    turns: dict[str, list[Timeline]] = {name: [] for name in ways}
    for turn in range(options.turns):
        for name, starter in ways.items():
            turns[name].append(measure_start(starter, archive, record, settings))
            print(f"turn {turn + 1}: {name}: {turns[name][-1].answer:.2f} s", file=sys.stderr)
    print(format_table(turns))
    if options.json:
        found = {name: [asdict(each) for each in runs] for name, runs in turns.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
