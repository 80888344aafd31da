"""The archive in a plain TorchServe that has never heard of this kit: routes, state, cores, and its end."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from handlers import cores
from tests import servers
from tests.servers import RECIPES, Server, wait_for

RED = (RECIPES / "tiny_red.png").read_bytes()


@pytest.fixture(scope="module")
def pair(tiny_archive: Path, plain_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers."""
    assert len(os.sched_getaffinity(0)) >= 2, "two workers on cores of their own need two processors"
    folder = tmp_path_factory.mktemp("pair") / "s"
    with servers.run_server(tiny_archive, folder, python=plain_python, workers=2) as running:
        yield running


@pytest.mark.parametrize("package", ["tracing", "handlers", "cli", "serving", "requests", "model_archiver"])
def test_the_plain_interpreter_has_neither_the_kit_nor_what_it_builds_with(plain_python: Path, package: str) -> None:
    """The server's Python cannot import the kit, so whatever an archive imports of it comes from the archive."""
    done = subprocess.run([plain_python, "-c", f"import {package}"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert f"No module named '{package}'" in done.stderr


def test_a_worker_runs_code_of_the_archive_alone(server: Server) -> None:
    """No worker has the repository on its module path: neither in its folder nor in its environment."""
    for pid in server.worker_pids():
        worker = psutil.Process(pid)
        assert worker.cwd().startswith(str(server.folder / "temp"))
        assert str(servers.ROOT / "handlers") not in worker.environ().get("PYTHONPATH", "")
        assert str(servers.ROOT) not in worker.environ().get("PYTHONPATH", "").split(os.pathsep)


def test_requests_are_read_the_fast_way(server: Server) -> None:
    """Both releases' wire format is known, the self-test passes, and nothing is printed for a batch."""
    assert server.describe()["frontend"] == "fast"
    server.predict(RED)
    assert "Backend received inference" not in server.log()


def test_ping_and_the_list_of_models_are_served(server: Server) -> None:
    """TorchServe's own routes say that it is healthy and has the model."""
    assert requests.get(f"{server.inference}/ping", timeout=10).json() == {"status": "Healthy"}
    models = requests.get(f"{server.management}/models", timeout=10).json()["models"]
    assert [each["modelName"] for each in models] == ["tiny"]


def test_the_answer_is_json_with_the_largest_probability_first(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """Each golden picture gets the probabilities that the eager model gave."""
    for body, expected in good:
        answer = server.predict(body)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == pytest.approx(expected, abs=1e-5)
        assert list(answer.json().values()) == sorted(answer.json().values(), reverse=True)


def test_explanations_are_declined_without_captum(server: Server) -> None:
    """A stock container lacks it: a 501 that says what to install, where; predictions go on."""
    answer = server.predict(RED, path="/explanations/tiny")
    assert answer.status_code == 501
    assert answer.json() == {"code": 501, "type": "NotOffered", "message": answer.json()["message"]}
    assert "install it where TorchServe runs" in answer.json()["message"]
    assert server.predict(RED).status_code == 200


def test_describe_shows_the_workers_state(server: Server) -> None:
    """`GET /models/tiny?customized=true` tells readiness, target and the leased core."""
    state = server.describe()
    assert (state["status"], state["model"], state["target"]) == ("ready", "tiny", "cpu")
    assert state["batch_sizes"] == [1, 4]
    assert state["cores"] == [holder.core for holder in server.holders()]


def test_two_workers_have_a_core_each(pair: Server) -> None:
    """Each worker runs on one processor, none on another's, and leases what it runs on."""
    bound = {pid: os.sched_getaffinity(pid) for pid in pair.worker_pids()}
    assert [len(each) for each in bound.values()] == [1, 1]
    assert len(set.union(*bound.values())) == 2
    assert {holder.pid: {holder.core} for holder in pair.holders()} == bound


def test_all_threads_of_a_worker_stay_on_its_core(pair: Server) -> None:
    """Threads that a library started before the lease are bound like the rest, and the main one alone computes."""
    for pid in pair.worker_pids():
        threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
        assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset(os.sched_getaffinity(pid))}
        before = _cpu_seconds(pid)
        for _ in range(50):
            pair.predict(RED)
        busy = [thread for thread, seconds in _cpu_seconds(pid).items() if seconds > before.get(thread, 0.0)]
        assert set(busy) <= {pid}, "only the main thread may compute"


def test_a_killed_workers_core_goes_to_its_replacement(pair: Server) -> None:
    """After kill -9 the lease is free at once; the worker that TorchServe starts instead takes that core."""
    before = {holder.pid: holder.core for holder in pair.holders()}
    victim = pair.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in psutil.pids() or victim not in _holding(pair), "the lease is free", seconds=2)
    wait_for(lambda: len(pair.holders()) == 2, "the replacement has a lease")
    after = {holder.pid: holder.core for holder in pair.holders()}
    (replacement,) = set(after) - set(before)
    assert after[replacement] == before[victim]
    wait_for(lambda: replacement in pair.worker_pids(), "the replacement is ready")


def test_an_orderly_stop_leaves_no_process_and_no_lease(tiny_archive: Path, plain_python: Path, tmp_path: Path) -> None:
    """`torchserve --stop` ends the server and its workers, and frees the cores."""
    with servers.run_server(tiny_archive, tmp_path / "s", python=plain_python) as running:
        environment = {**os.environ, "TMPDIR": str(running.folder / "temp")}
        command = [str(plain_python), "-m", "ts.model_server", "--stop"]
        subprocess.run(command, env=environment, cwd=running.folder, check=True, capture_output=True)
        wait_for(lambda: not servers.processes_of(running), "all processes are gone", seconds=30)
        assert cores.lease_holders(running.folder / "leases") == []


def _cpu_seconds(pid: int) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(pid).threads()}


def _holding(server: Server) -> list[int]:
    return [holder.pid for holder in server.holders()]
