"""Workers that cannot serve: every request is answered at once with the reason, never from a model that failed."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from handlers import cores
from handlers.targets import cpu
from tests import archives, servers
from tests.servers import RECIPES, ROOT, Server
from tracing import checking

RED = (RECIPES / "tiny_red.png").read_bytes()
ROUTES = ("/predictions/tiny", "/predictions/tiny/1.0", "/v2/models/tiny/infer", "/explanations/tiny")


def break_weights(archive: Path, copy: Path) -> Path:
    """One byte of the compiled model is another one."""
    file = checking.read_archive_record(archive).variants[0].modules[0].file
    return archives.tamper(archive, copy, {file: archives.flip_byte(1000)})


def smuggle_module(archive: Path, copy: Path) -> Path:
    """A file lies in the archive that Python would import instead of Pillow."""
    return archives.tamper(archive, copy, {"PIL.py": lambda content: b"raise SystemExit"})


def break_record(archive: Path, copy: Path) -> Path:
    """One byte of the record is another one."""
    return archives.tamper(archive, copy, {"artifact.json": archives.flip_byte(100)})


def change_golden(archive: Path, copy: Path) -> Path:
    """A golden answer is another one, and every hash agrees."""
    first, *rest = checking.read_archive_record(archive).golden
    wrong = dataclasses.replace(first, answer={"red": 0.1, "green": 0.2, "blue": 0.7})
    return archives.reseal(archive, copy, golden=(wrong, *rest))


def lack_package_of_handler(archive: Path, copy: Path) -> Path:
    """The handler imports a package that this Python does not have."""
    return archives.reseal(archive, copy, {"handlers/image_classifier.py": lambda code: b"import not_there\n" + code})


def lack_package_of_service(archive: Path, copy: Path) -> Path:
    """What the entry imports first imports a package that this Python does not have."""
    return archives.reseal(archive, copy, {"handlers/service.py": lambda code: b"import not_there\n" + code})


FAULTS = {
    break_weights: ("BrokenArchive", "was changed"),
    smuggle_module: ("BrokenArchive", "PIL.py was added"),
    break_record: ("BrokenArchive", "artifact.json was changed"),
    change_golden: ("GoldenMismatch", "golden request tiny_red.png"),
    lack_package_of_handler: ("ModelUnusable", "No module named 'not_there'"),
    lack_package_of_service: ("ModuleNotFoundError", "No module named 'not_there'"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_archive_is_answered_with_the_reason(
    tiny_archive: Path, plain_python: Path, tmp_path: Path, fault
) -> None:
    """Each request is answered within 2 s with 503, kind and reason; describe says the same."""
    broken = fault(tiny_archive, tmp_path / "tiny.mar")
    with servers.run_server(broken, tmp_path / "s", python=plain_python, expected=503) as running:
        assert_refusing(running, *FAULTS[fault])


def test_a_broken_archive_is_answered_with_the_reason_in_the_older_release(
    tiny_archive: Path, plain_python: Path, tmp_path: Path
) -> None:
    """The same holds in TorchServe 0.11.0."""
    broken = change_golden(tiny_archive, tmp_path / "tiny.mar")
    path = [servers.install_torchserve("0.11.0")]
    with servers.run_server(broken, tmp_path / "s", python=plain_python, python_path=path, expected=503) as running:
        assert_refusing(running, *FAULTS[change_golden])


def test_a_worker_that_cannot_serve_keeps_no_requests(tiny_archive: Path, plain_python: Path, tmp_path: Path) -> None:
    """Memory does not grow with what clients send to a worker that cannot serve."""
    broken = change_golden(tiny_archive, tmp_path / "tiny.mar")
    with servers.run_server(broken, tmp_path / "s", python=plain_python, expected=503) as running:
        worker = psutil.Process(running.worker_pids()[0])
        for _ in range(20):
            running.predict(b"\0" * 2_000_000)
        before = worker.memory_info().rss
        for _ in range(60):
            running.predict(b"\0" * 2_000_000)
        assert worker.memory_info().rss - before < 40_000_000


def test_a_worker_without_a_core_starts_by_itself_once_one_is_free(
    tiny_archive: Path, plain_python: Path, tmp_path: Path
) -> None:
    """While another process holds all cores the reason is answered; when it is gone the worker gets ready."""
    leases = tmp_path / "s" / "leases"
    alone = {cpu.PLACES_VARIABLE: "1"}
    with (
        all_cores_held(leases) as holder,
        servers.run_server(
            tiny_archive, tmp_path / "s", python=plain_python, environment=alone, expected=503
        ) as running,
    ):
        pids = running.worker_pids()
        assert_refusing(running, "NoCores", f"by pid {holder.pid} (somebody else)")
        assert running.describe()["retrying"] is True
        holder.kill()
        servers.wait_for_answer(running, RED, 200, seconds=30)
        assert running.worker_pids() == pids, "the worker waited, TorchServe did not restart it"
        assert [each.pid for each in running.holders()] == pids


def assert_refusing(server: Server, kind: str, reason: str) -> None:
    """Hold that every request gets 503 with kind and reason within 2 s, and that describe tells the same."""
    for route in ROUTES * 3:
        began = time.monotonic()
        answer = server.predict(RED, path=route)
        assert time.monotonic() - began < 2
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json()["code"], answer.json()["type"]) == (503, kind)
        assert reason in answer.json()["message"]
    state = server.describe()
    assert (state["status"], state["type"]) == ("cannot serve", kind)
    assert reason in state["reason"]


@contextmanager
def all_cores_held(leases: Path) -> "Iterator[subprocess.Popen[str]]":
    """Let another process hold a lease on every core for the time of a ``with``."""
    script = (
        "from handlers import cores; every = cores.host_cpus()\n"
        "kept = [cores.take_lease('cpu', 1, host_cores=[core], places=1, label='somebody else') for core in every]\n"
        "print('held', flush=True); input()\n"
    )
    leases.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), cores.LEASE_FOLDER_VARIABLE: str(leases)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()
