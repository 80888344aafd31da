"""Who owns which cores of the emulated host, between real processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from neuron_emulator import ownership
from neuron_emulator.descriptors import close_lock, open_lock, try_lock
from neuron_emulator.runtime import describe_host, get_runtime, registry_folder, reset_runtime

from tests.emulator.processes import EMULATOR, Worker

CANNOT_START = (
    "The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged\n"
    "to your system logs. See the Neuron Runtime's troubleshooting guide for help on this\n"
    "topic: https://awsdocs-neuron.readthedocs-hosted.com/en/latest/"
)


def owners() -> list[int | None]:
    return [core["pid"] for core in describe_host()["cores"]]


@pytest.mark.parametrize(
    ("environ", "cores"),
    [
        ({}, (0, 1, 2, 3)),
        ({"NEURON_RT_NUM_CORES": "0"}, (0, 1, 2, 3)),
        ({"NEURON_RT_NUM_CORES": "2"}, (0, 1)),
        ({"NEURON_RT_VISIBLE_CORES": "2"}, (2,)),
        ({"NEURON_RT_VISIBLE_CORES": "1-3"}, (1, 2, 3)),
        ({"NEURON_RT_VISIBLE_CORES": "0,1,2-3"}, (0, 1, 2, 3)),
        ({"NEURON_RT_VISIBLE_CORES": "3", "NEURON_RT_NUM_CORES": "2"}, (3,)),
    ],
)
def test_a_process_gets_the_cores_it_asks_for(monkeypatch, environ, cores):
    """Contract 4.2.1: explicit list; or N free contiguous cores; or all cores on the host."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert get_runtime().cores == cores
    assert [core for core, pid in enumerate(owners()) if pid == os.getpid()] == list(cores)


def test_the_environment_is_read_once(monkeypatch):
    """Contract 4.1: read once, at runtime start in the process; trap 4: set later, it does nothing."""
    assert len(get_runtime().cores) == 4
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "1")
    assert len(get_runtime().cores) == 4


def test_numbers_are_filled_from_core_0(monkeypatch):
    """Contract 4.2.7: first-fit from core 0."""
    with Worker(NEURON_RT_NUM_CORES="1") as first, Worker(NEURON_RT_NUM_CORES="2") as second:
        assert (first.cores, second.cores) == ((0,), (1, 2))


def test_a_gap_that_is_too_small_is_passed_over():
    """Contract 4.2.1: N free contiguous cores."""
    with Worker(NEURON_RT_VISIBLE_CORES="1"), Worker(NEURON_RT_NUM_CORES="2") as pair:
        assert pair.cores == (2, 3)


def test_free_cores_that_are_not_neighbours_are_not_enough(monkeypatch, capfd):
    """Contract 4.2.1: contiguous."""
    with Worker(NEURON_RT_VISIBLE_CORES="1"), Worker(NEURON_RT_VISIBLE_CORES="3"):
        monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")
        with pytest.raises(RuntimeError):
            get_runtime()
    assert "NeuronCore(s) not available - Requested:2 Available:1" in capfd.readouterr().err


def test_the_sixth_process_of_three_cores_is_refused(monkeypatch):
    """Contract 4.2.3: a 6th process asking for 3 cores on inf1.6xlarge fails although one core is free."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf1.6xlarge")
    with ThreadPoolExecutor(6) as pool:
        workers = list(pool.map(lambda _: Worker(NEURON_RT_NUM_CORES="3"), range(6)))
    granted = sorted(worker.cores for worker in workers if worker.cores)
    assert owners()[15] is None
    logs = [worker.end() for worker in workers if not worker.cores]
    for worker in workers:
        worker.end()
    assert granted == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14)]
    assert "Requested:3 Available:1" in logs[0]


def test_the_second_process_without_variables_gets_none():
    """Contract 9.3: the first worker takes all cores, the others die with "Available:0"."""
    with Worker() as first, Worker() as second:
        assert first.cores == (0, 1, 2, 3)
        assert second.cores == ()
        assert "NeuronCore(s) not available - Requested:4 Available:0" in second.end()


def test_a_taken_core_is_refused_with_the_documented_texts(monkeypatch, capfd):
    """Contract 4.3, 4.4, 4.6: three lines in the exception, the reason in the log on standard error."""
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "1")
    with Worker(), pytest.raises(RuntimeError) as caught:
        get_runtime()
    assert str(caught.value) == CANNOT_START
    line = capfd.readouterr().err
    assert "NRT:nrt_allocate_neuron_cores " in line
    assert line.endswith("NeuronCore(s) not available - Requested:nc1-nc1 Available:0\n")


def test_later_runtimes_call_the_cores_logical(monkeypatch, capfd):
    """Contract 4.6: newer ``Logical Neuron Core(s) not available - Requested:32 Available:0``."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "trn1.32xlarge")
    with Worker(), pytest.raises(RuntimeError):
        get_runtime()
    assert "Logical Neuron Core(s) not available - Requested:32 Available:0" in capfd.readouterr().err


def test_cores_that_the_host_lacks_are_not_available(monkeypatch, capfd):
    """A core beyond the instance cannot be had."""
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "3-4")
    with pytest.raises(RuntimeError):
        get_runtime()
    assert "Requested:nc3-nc4 Available:1" in capfd.readouterr().err
    assert owners() == [None] * 4


def test_cores_that_are_not_neighbours_are_refused(monkeypatch, capfd):
    """Contract 4.6, trap 27: ``Neuron cores are not contiguous``, init error."""
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "0,2")
    with pytest.raises(RuntimeError, match="could not be initialized"):
        get_runtime()
    assert "NRT:nrt_allocate_neuron_cores               Neuron cores are not contiguous" in capfd.readouterr().err


def test_a_refused_process_can_try_again(monkeypatch):
    """Once the owner has gone the same process starts its runtime."""
    with Worker() as owner:
        with pytest.raises(RuntimeError):
            get_runtime()
        owner.kill()
        assert get_runtime().cores == (0, 1, 2, 3)


@pytest.mark.parametrize("end", ["kill", "end"])
def test_the_end_of_a_process_frees_its_cores_at_once(end):
    """Contract 4.2.2, 4.7: crash, SIGKILL or exit frees cores."""
    worker = Worker()
    assert owners() == [worker.pid] * 4
    getattr(worker, end)()
    assert owners() == [None] * 4
    assert get_runtime().cores == (0, 1, 2, 3)


def test_a_closed_runtime_gives_its_cores_back():
    """Contract 4.2.2: until that process ends or calls ``nrt_close``."""
    get_runtime()
    reset_runtime()
    assert owners() == [None] * 4
    with Worker() as other:
        assert other.cores == (0, 1, 2, 3)


def test_a_stopped_process_keeps_its_cores():
    """Contract 4.7: an idle process keeps its cores."""
    with Worker() as idle:
        os.kill(idle.pid, signal.SIGSTOP)
        with Worker() as other:
            assert other.cores == ()
        os.kill(idle.pid, signal.SIGCONT)


def test_unloaded_models_give_no_cores_back():
    """Contract 4.2.2: deleting model objects does not give cores back."""
    with Worker() as worker:
        assert worker.run("r = get_runtime(); r.unload(r.load(Need('m', 'inf1', 1, 8))[0])") == "done"
        assert owners() == [worker.pid] * 4


def test_a_forked_child_does_not_keep_a_dead_parents_cores():
    """Contract 4.7: crash frees cores, also if a child of the process lives on."""
    with Worker() as worker:
        child = int(worker.run("pid = os.fork(); pid or __import__('time').sleep(60); print(pid, flush=True)"))
        os.kill(worker.pid, signal.SIGKILL)
        try:
            assert take_after_death(worker.pid) == (0, 1, 2, 3)
        finally:
            os.kill(child, signal.SIGKILL)


def take_after_death(pid: int) -> tuple[int, ...]:
    """Return what this process gets once another is dead."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is None:
        time.sleep(0.01)
    return get_runtime().cores


def test_a_lock_that_a_dead_owner_loses_during_the_search_is_waited_for(monkeypatch):
    """Contract 4.7: crash frees cores; a forked child lets go of them one after another, also while one looks."""
    with Worker(NEURON_RT_NUM_CORES="2") as dead:
        pass
    folder = registry_folder()
    inherited = [open_lock(folder / f"core-{core}.lock") for core in dead.cores]
    assert all(try_lock(descriptor) for descriptor in inherited)
    search = ownership._try_cores

    def search_and_let_go(*arguments):
        found = search(*arguments)
        while inherited:
            close_lock(inherited.pop())
        return found

    monkeypatch.setattr(ownership, "_try_cores", search_and_let_go)
    assert get_runtime().cores == (0, 1, 2, 3)


def test_a_started_program_does_not_keep_the_cores():
    """Programs started by the owner do not inherit its locks."""
    with Worker() as worker:
        line = "p = Popen(['sleep', '60'], close_fds=False, stdin=-3, stdout=-3, stderr=-3); print(p.pid, flush=True)"
        program = int(worker.run(f"from subprocess import Popen; {line}"))
        worker.kill()
    try:
        assert get_runtime().cores == (0, 1, 2, 3)
    finally:
        os.kill(program, signal.SIGKILL)


def test_a_process_forked_before_the_start_has_a_runtime_of_its_own():
    """Contract 4.7: import may precede the fork; load must follow it."""
    child = os.fork()
    if child == 0:
        os._exit(0 if get_runtime().cores == (0, 1, 2, 3) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert get_runtime().cores == (0, 1, 2, 3)


def test_eight_processes_that_race_for_four_cores_get_four():
    """Contract 4.2.2: a core belongs to one process."""
    with ThreadPoolExecutor(8) as pool:
        workers = list(pool.map(lambda _: Worker(NEURON_RT_NUM_CORES="1"), range(8)))
    granted = sorted(core for worker in workers for core in worker.cores)
    for worker in workers:
        worker.end()
    assert granted == [0, 1, 2, 3]


def test_two_folders_are_two_hosts(tmp_path):
    """Tests and servers side by side do not take one another's cores."""
    with Worker(NEURON_EMULATOR_FOLDER=str(tmp_path / "a")) as first:
        assert first.cores == get_runtime().cores == (0, 1, 2, 3)


def test_the_import_takes_nothing():
    """Contract 4.2.1: cores are asked for at the first runtime use, not at the import."""
    code = "import neuron_emulator.runtime, sys; sys.exit(len(neuron_emulator.runtime.describe_host()['processes']))"
    environ = {**os.environ, "PYTHONPATH": str(EMULATOR)}
    assert subprocess.run([sys.executable, "-c", code], env=environ, timeout=60).returncode == 0
    assert owners() == [None] * 4
