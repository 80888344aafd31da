"""What the runtime does with models: memory, families, pipelines, threads, forks."""

import os
import threading
import time

import pytest
from neuron_emulator.runtime import Need, describe_host, get_runtime, reset_runtime

from tests.emulator.processes import Worker

GIB = 1 << 30
TRAFFIC = {"bytes_in": 4, "bytes_out": 8, "items": 3, "padded": 1}


def need(cores: int = 1, gib: float = 0.0, family: str = "inf1") -> Need:
    return Need("net", family, cores, int(gib * GIB))


def cores() -> list[dict]:
    return describe_host()["cores"]


def test_loads_are_spread_over_the_cores():
    """Contract 2.11: 1st load on nc0, 2nd on nc1."""
    runtime = get_runtime()
    assert [runtime.load(need())[0].cores for _ in range(5)] == [(0,), (1,), (2,), (3,), (0,)]


def test_cores_are_numbered_from_0_inside_a_process(monkeypatch):
    """Contract 4.2.5: inside the process cores are renumbered from 0."""
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "2-3")
    [copy] = get_runtime().load(need(), start_nc=1)
    assert copy.cores == (1,)
    assert [core["loads"] for core in cores()] == [0, 0, 0, 1]


def test_an_unloaded_model_makes_room():
    """Least used is what is loaded now."""
    runtime = get_runtime()
    [first], [_] = runtime.load(need()), runtime.load(need())
    runtime.unload(first)
    runtime.unload(first)
    assert runtime.load(need())[0].cores == (0,)


def test_a_full_core_is_refused_with_status_4(monkeypatch, capfd):
    """Contract 4.4, 4.6, 4.7: inf1 has about 2 GiB per core; the kernel's line says what was needed."""
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "1")
    runtime = get_runtime()
    runtime.load(need(gib=1.5))
    with pytest.raises(RuntimeError) as caught:
        runtime.load(need(gib=1))
    assert str(caught.value) == "Could not load the model status=4 message=Allocation Failure"
    assert (
        "neuron:mc_alloc: device mempool [0:0] total 2147483648 occupied 1610612736 needed 1073741824 "
        "available 536870912\n"
    ) in capfd.readouterr().err


def test_a_full_core_of_inf2_is_refused_with_the_newer_line(monkeypatch, capfd):
    """Contract 4.6, 4.7: 16 GiB per core; ``Failed to allocate 4.000GB (...) on ND 0:NC 4``."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf2.xlarge")
    runtime = get_runtime()
    runtime.load(need(gib=15, family="inf2"), start_nc=1)
    with pytest.raises(RuntimeError, match="status=4 message=Allocation Failure"):
        runtime.load(need(gib=4, family="inf2"), start_nc=1)
    assert "Failed to allocate 4.000GB (alignment: none, usage: tensors) on ND 0:NC 1" in capfd.readouterr().err


def test_unloading_gives_memory_back():
    """What was refused fits once the other model has gone."""
    runtime = get_runtime()
    [big] = runtime.load(need(gib=2), start_nc=0)
    runtime.unload(big)
    assert runtime.load(need(gib=2), start_nc=0)


def test_the_memory_of_a_core_can_be_set(monkeypatch):
    """Contract 11: device memory per core is a switch."""
    monkeypatch.setenv("NEURON_EMULATOR_MEMORY_GIB_PER_CORE", "0.5")
    with pytest.raises(RuntimeError, match="status=4"):
        get_runtime().load(need(gib=1))


def test_a_model_can_be_loaded_on_several_cores_at_once():
    """Contract 2.11: ``floor(nc_count / cores_per_model)`` copies, each a load of its own."""
    copies = get_runtime().load(need(), nc_count=4)
    assert [copy.cores for copy in copies] == [(0,), (1,), (2,), (3,)]
    assert [core["loads"] for core in cores()] == [1, 1, 1, 1]


def test_copies_that_do_not_all_fit_leave_none():
    """The second of four copies does not fit: the first is not left behind."""
    runtime = get_runtime()
    runtime.load(need(gib=1.5), start_nc=1)
    with pytest.raises(RuntimeError, match="status=4"):
        runtime.load(need(gib=1), nc_count=4)
    assert [core["memory_bytes"] for core in cores()] == [0, 3 * GIB // 2, 0, 0]


@pytest.mark.parametrize(
    ("instance", "family", "environ", "loads"),
    [
        ("inf1.xlarge", "inf1", {}, True),
        ("inf2.xlarge", "inf2", {}, True),
        ("trn1.2xlarge", "inf2", {}, True),
        ("trn1n.32xlarge", "inf2", {}, True),
        ("inf2.xlarge", "inf1", {}, False),
        ("inf1.xlarge", "inf2", {}, False),
        ("trn2.48xlarge", "inf2", {}, False),
        ("trn2.48xlarge", "inf2", {"NEURON_RT_ALLOW_LEGACY_NEFF": "1"}, True),
        ("trn2.48xlarge", "inf1", {"NEURON_RT_ALLOW_LEGACY_NEFF": "1"}, False),
    ],
)
def test_an_artefact_of_another_generation_has_status_2(monkeypatch, capfd, instance, family, environ, loads):
    """Contract 4.1, 4.4, trap 20: ``status=2 message=Invalid``; ALLOW_LEGACY_NEFF runs an older one on a newer chip."""
    for name, value in {"NEURON_EMULATOR_INSTANCE": instance, **environ}.items():
        monkeypatch.setenv(name, value)
    if loads:
        assert get_runtime().load(need(family=family))
        return
    with pytest.raises(RuntimeError) as caught:
        get_runtime().load(need(family=family))
    assert str(caught.value) == "Could not load the model status=2 message=Invalid"
    assert f"net was compiled for {family}" in capfd.readouterr().err


def test_a_pipeline_of_too_many_cores_is_refused(monkeypatch, capfd):
    """Contract 4.5, 4.6: LOAD_NOT_ENOUGH_NC (9), after ``Could not find VNC id n`` and ``Failed to load NN``."""
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")
    with pytest.raises(RuntimeError, match="Could not load the model status=9"):
        get_runtime().load(need(cores=3))
    first, second = capfd.readouterr().err.splitlines()
    assert first.endswith("Could not find VNC id 2") and "TDRV:db_vtpb_get_mla_and_tpb" in first
    assert second.endswith("Failed to load NN: net, err: 2") and "NMGR:kmgr_load_nn_post_metrics" in second


def test_models_on_one_core_take_turns():
    """Contract 4.2.4: threads and several models may share a core; the runtime time-slices models."""
    runtime = get_runtime()
    first, second = (runtime.load(need(), start_nc=0)[0] for _ in range(2))
    assert overlap(runtime, first, second) == 1


def test_models_on_different_cores_run_at_once():
    """Contract 2.11: cores do not wait for one another."""
    runtime = get_runtime()
    [first], [second] = runtime.load(need()), runtime.load(need())
    assert overlap(runtime, first, second) == 2


def test_a_pipeline_takes_turns_with_a_model_on_one_of_its_cores():
    """Contract 2.11: overlap is allowed."""
    runtime = get_runtime()
    [pipeline], [single] = runtime.load(need(cores=2), start_nc=0), runtime.load(need(), start_nc=1)
    assert overlap(runtime, pipeline, single) == 1


def overlap(runtime, *copies) -> int:
    """Return how many of the copies ran at one time, at most, when each is run in a thread of its own."""
    running, most = [], []

    def run() -> None:
        running.append(1)
        time.sleep(0.1)
        most.append(len(running))
        running.pop()

    threads = [threading.Thread(target=runtime.execute, args=(copy, run), kwargs=TRAFFIC) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(most)


def test_a_forked_child_can_neither_execute_nor_load():
    """Contract 4.6, 4.7: after ``fork`` the child cannot execute; the log says NRT_STATE_CHILD."""
    with Worker() as worker:
        worker.run("copy = get_runtime().load(Need('m', 'inf1', 1, 8))[0]")
        worker.run("run = lambda: get_runtime().execute(copy, int, bytes_in=0, bytes_out=0, items=1, padded=0)")
        answer = worker.run_in_child("run()")
        assert answer == "Failed to execute the model status=13 message=Uninitialized"
        answer = worker.run_in_child("get_runtime().load(Need('m', 'inf1', 1, 8))")
        assert answer == "Could not load the model status=13 message=Uninitialized"
        assert worker.run("run()") == "done"
        assert "NRT:nrt_allocate_tensor_set                 Incompatible runtime state: NRT_STATE_CHILD" in worker.end()


def test_a_forked_child_leaves_the_parents_cores_alone():
    """A child that ends, in good order, takes nothing with it."""
    get_runtime()
    child = os.fork()
    if child == 0:
        reset_runtime()
        os._exit(0)
    os.waitpid(child, 0)
    assert [core["pid"] for core in cores()] == [os.getpid()] * 4
    with Worker() as other:
        assert other.cores == ()


def test_a_closed_runtime_refuses_its_models():
    """Contract 11: runtime state: initialised, then closed."""
    runtime = get_runtime()
    [copy] = runtime.load(need())
    reset_runtime()
    with pytest.raises(RuntimeError, match="status=14"):
        runtime.execute(copy, lambda: None, **TRAFFIC)
    with pytest.raises(RuntimeError, match="status=3"):
        get_runtime().execute(copy, lambda: None, **TRAFFIC)
