"""Start and stop one TorchServe server, told from every other by its inference port."""

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from handlers import artifact, integrity
from handlers.artifact import Record
from handlers.neuron import INSTANCE_VARIABLE
from serving.emulation import emulated_environment
from serving.errors import NoSpace, NotReady, ServerError, ServerRuns
from serving.java import Java, find_java
from serving.launching import PID_FILE, Launch, plan_launch
from serving.ports import Ports, ensure_free
from serving.processes import end_tree, start_detached
from serving.readiness import wait_until_ready
from serving.requesting import Client, Reply
from serving.runs import RunFolder, RunState, find_leftovers, find_process, read_start
from serving.signing import PASSPHRASE_VARIABLE, SigningError, verify_archive
from serving.workers import plan_crew

Progress = Callable[[str], None]
ROOT = Path(__file__).resolve().parent.parent
_SPARE = 100_000_000  # bytes that logs and the JVM may want beside the unpacked archive


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What the caller may choose."""

    port: int = 8080  # of inference; management and metrics follow
    config: Path = ROOT / "config.properties"
    log: str = "warn"  # or "info"
    token: bool = False  # token authorisation
    workers: int = 0  # 0: as many as the host has room for
    wait: float = 90.0  # seconds until the model must answer
    trusted: tuple[Path, ...] = ()  # keys, or folders of them; one must have signed the archive, if any are named
    emulated: str = field(default_factory=lambda: os.environ.get(INSTANCE_VARIABLE, ""))  # instance type, "" for none

    def as_texts(self) -> dict[str, str]:
        """Return what makes one running server unlike another."""
        texts = {"log": self.log, "token": str(self.token), "workers": str(self.workers), "config": str(self.config)}
        signed = {"trusted": os.pathsep.join(str(each.resolve()) for each in self.trusted)} if self.trusted else {}
        return {**texts, "emulated": self.emulated, **signed}


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    client: Client
    state: RunState
    reply: Reply  # to the first golden request
    file: Path  # that request's body
    started: bool  # False: it was running already


def start(archive: Path, record: Record, settings: ServeSettings, *, progress: Progress) -> Served:
    """Start a server for an archive and return when it has answered a golden request truly.

    A server of ours that serves the same archive with the same settings is asked instead. Raises ``ServerError`` with
    what is in the way; whatever was started is stopped again.
    """
    folder = RunFolder(settings.port)
    _ensure_inputs(archive, settings)
    digest = integrity.hash_file(archive)
    with folder.lock():
        running = folder.read()
        if running is not None:
            _ensure_same(running, archive, digest, settings)
            progress(f"the server on port {settings.port} runs already (process {running.pid})")
            return _ask_golden(folder, running, record, settings, progress, started=False)
        _clear(folder)
        ports = Ports.starting_at(settings.port)
        ensure_free(ports)
        crew = plan_crew(record, settings.workers)
        for reason in crew.passed_over:
            progress(f"passed over {reason}")
        progress(f"{crew.workers} workers of {record.name} for {crew.variant.target}")
        java = find_java()
        launch = plan_launch(java, settings.config)
        folder.create()
        with _stopped_on_failure(folder):
            _ensure_space(archive, folder.path, copied=bool(settings.trusted))
            served = _hold(archive, record, folder, settings.trusted) if settings.trusted else archive
            _extract_golden(served, record, folder.path)
            state = _launch(served, archive, digest, record, ports, launch, settings, folder, crew.workers)
            origin = f"process {state.pid}, Java {java.version}, {java.origin}"
            progress(f"TorchServe started ({origin}); logs in {folder.logs}")
            answered = _ask_golden(folder, state, record, settings, progress, started=True)
            launch.prepare_next(folder.classes)
            return answered


def ensure_startable(port: int) -> None:
    """Raise ``PortInUse`` if a server on ``port`` could not be started, unless ours runs there.

    Cheap, and so asked before an archive is built for minutes.
    """
    if RunFolder(port).read() is None:
        ensure_free(Ports.starting_at(port))


def stop(port: int) -> RunState | None:
    """Stop the server on ``port`` with its workers, remove its run folder, and return what it was, or None.

    Only processes that this kit recorded, or that run in the server's own folder, are signalled.
    """
    folder = RunFolder(port)
    with folder.lock():
        return _stop(folder)


def _stop(folder: RunFolder) -> RunState | None:
    state = folder.read()
    process = find_process(state) if state is not None else None
    if process is not None:
        end_tree(process)
    _clear(folder)
    return state


def _clear(folder: RunFolder) -> None:
    """End what a server that died, or whose start was killed, has left behind, and remove its run folder."""
    for process in find_leftovers(folder):
        end_tree(process)
    folder.remove()


def _ensure_same(running: RunState, archive: Path, digest: str, settings: ServeSettings) -> None:
    if running.archive_sha256 == digest and running.settings == settings.as_texts():
        return
    what = f"{running.model} from {running.archive}"
    if running.archive_sha256 == digest:
        what += f" with other settings ({', '.join(f'{k}={v}' for k, v in sorted(running.settings.items()))})"
    elif running.archive == str(archive):
        what += " as it was before it was built again"
    raise ServerRuns(
        f"a server on port {settings.port} serves {what}; stop it first: make stop PORT={settings.port}, "
        "or choose another PORT="
    )


def _ensure_inputs(archive: Path, settings: ServeSettings) -> None:
    if not archive.is_file():
        raise ServerError(f"there is no archive {archive}; build it with: make mar MODEL=...")
    if not settings.config.is_file():
        raise ServerError(f"there is no {settings.config}; run the kit from a clone, or name one with --config")


def _ensure_space(archive: Path, folder: Path, *, copied: bool = False) -> None:
    with zipfile.ZipFile(archive) as opened:
        unpacked = sum(member.file_size for member in opened.infolist())
    unpacked += archive.stat().st_size if copied else 0
    free = shutil.disk_usage(folder).free
    if free < unpacked + _SPARE:
        raise NoSpace(
            f"{folder} has {free / 1e6:.0f} MB free; the archive unpacks to {unpacked / 1e6:.0f} MB and "
            f"{_SPARE / 1e6:.0f} MB are wanted for logs. Free some space"
        )


def _hold(archive: Path, record: Record, folder: RunFolder, trusted: tuple[Path, ...]) -> Path:
    """Return a copy of a signed archive in a folder of the server's own, whose content was verified as it was copied.

    The server unpacks it long after the look at its signature; where it came from others may write.
    """
    copy = folder.path / "signed" / archive.name
    copy.parent.mkdir()
    verify_archive(archive, trusted, copy=copy)
    with zipfile.ZipFile(copy) as opened:
        if artifact.parse_record(opened.read(integrity.RECORD_NAME)) != record:
            raise SigningError(f"{archive} was exchanged while it was looked at; who else writes to {archive.parent}?")
    return copy


def _extract_golden(archive: Path, record: Record, folder: Path) -> None:
    golden = record.golden[0]
    with zipfile.ZipFile(archive) as opened:
        (folder / golden.name).write_bytes(opened.read(golden.file))


def _launch(
    served: Path,
    archive: Path,
    digest: str,
    record: Record,
    ports: Ports,
    launch: Launch,
    settings: ServeSettings,
    folder: RunFolder,
    workers: int,
) -> RunState:
    """Start the JVM in the background, as TorchServe's own launcher does, and note which process it is."""
    command = launch.make_command(
        log_config=ROOT / "serving" / f"log4j2-{settings.log}.xml",
        temporary=folder.temporary,
        record=folder.classes,
        store=served.resolve().parent,
        models=f"{record.name}={served.name}",
    )
    environment = make_environment(dict(os.environ), ports, launch.java, settings, folder, workers)
    try:
        with (folder.logs / "console.log").open("wb") as console:
            # TorchServe writes its keys to the current folder.
            pid = start_detached(command, cwd=folder.path, environment=environment, output=console)
        created = read_start(psutil.Process(pid))
    except (OSError, psutil.Error) as exc:
        raise NotReady(f"{launch.java.command} does not start: {exc}") from exc
    (folder.temporary / PID_FILE).write_text(str(pid))
    state = RunState(settings.port, pid, created, record.name, str(archive.resolve()), digest, settings.as_texts())
    folder.write(state)
    return state


def make_environment(
    inherited: dict[str, str], ports: Ports, java: Java, settings: ServeSettings, folder: RunFolder, workers: int
) -> dict[str, str]:
    """Return the server's environment: the caller's, without secrets and what would change it behind our back.

    A ``TS_...`` that was set for another server would replace a key of ``config.properties`` here.
    """
    environment = {
        name: value
        for name, value in inherited.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", PASSPHRASE_VARIABLE) and not name.startswith("TS_")
    }
    if settings.emulated:
        environment.update(emulated_environment(environment, settings.emulated))
    loopback = "http://127.0.0.1"
    environment.update(
        JAVA_HOME=str(java.home),
        TEMP=str(folder.temporary),
        TMPDIR=str(folder.temporary),
        LOG_LOCATION=str(folder.logs),
        METRICS_LOCATION=str(folder.logs),
        TS_INFERENCE_ADDRESS=f"{loopback}:{ports.inference}",
        TS_MANAGEMENT_ADDRESS=f"{loopback}:{ports.management}",
        TS_METRICS_ADDRESS=f"{loopback}:{ports.metrics}",
        TS_GRPC_INFERENCE_PORT=str(ports.grpc_inference),
        TS_GRPC_MANAGEMENT_PORT=str(ports.grpc_management),
        TS_DISABLE_TOKEN_AUTHORIZATION="false" if settings.token else "true",
        TS_DEFAULT_WORKERS_PER_MODEL=str(workers),
    )
    # A worker has one processor, and starting numpy's threads for the others takes a tenth of a second of it.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    return environment


def _ask_golden(
    folder: RunFolder, state: RunState, record: Record, settings: ServeSettings, progress: Progress, *, started: bool
) -> Served:
    client = Client(settings.port, folder.path)
    golden = record.golden[0]
    file = folder.path / golden.name
    reply = wait_until_ready(client, state, record, file.read_bytes(), folder, settings.wait, progress=progress)
    if settings.token and not client.authorization("inference"):
        raise NotReady(
            "this TorchServe answers without a token: it is older than 0.11.1. Serve without TOKEN=1, behind something "
            "that asks for a password, or install torchserve==0.12.0"
        )
    return Served(client, state, reply, file, started)


@contextlib.contextmanager
def _stopped_on_failure(folder: RunFolder) -> Iterator[None]:
    """Stop the server on any failure, an interrupt by the user included, and keep its logs for a look."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, shutil.Error):  # a full disk must not keep the server from being stopped
            shutil.copytree(folder.logs, folder.failed)
        _stop(folder)
        raise
