"""The host's own record: what each core has done, for whom."""

import os
import shutil
import time
from pathlib import Path

import pytest
from neuron_emulator import host
from neuron_emulator.runtime import Need, describe_host, get_runtime

from tests.emulator.processes import Worker

GIB = 1 << 30
TRAFFIC = {"bytes_in": 4, "bytes_out": 8, "items": 3, "padded": 1}


def need(cores: int = 1, gib: float = 0.0, family: str = "inf1") -> Need:
    return Need("net", family, cores, int(gib * GIB))


def cores() -> list[dict]:
    return describe_host()["cores"]


def test_executions_are_counted_for_their_core():
    """Executions, bytes, items and padding per core: what a chip would care about."""
    runtime = get_runtime()
    [copy] = runtime.load(need(gib=1), start_nc=2)
    assert [runtime.execute(copy, lambda: "result", **TRAFFIC) for _ in range(2)] == ["result"] * 2
    found = cores()[2]
    assert (found["pid"], found["loads"], found["executions"]) == (os.getpid(), 1, 2)
    assert (found["bytes_in"], found["bytes_out"], found["items"], found["padded"]) == (8, 16, 6, 2)
    assert found["memory_bytes"] == GIB
    assert describe_host()["processes"][0]["outcomes"] == {"completed": 2}


def test_a_pipeline_moves_its_bytes_once():
    """Each core of a pipeline executes; the input is moved to the first."""
    runtime = get_runtime()
    [copy] = runtime.load(need(cores=2))
    runtime.execute(copy, lambda: None, **TRAFFIC)
    assert [(core["executions"], core["items"]) for core in cores()] == [(1, 3), (1, 0), (0, 0), (0, 0)]


def test_a_numerical_error_is_counted_as_such(capfd):
    """Contract 7.1, 4.6: ``completed_with_num_err``, ``INFER_ERROR_SUBTYPE_NUMERICAL``."""
    runtime = get_runtime()
    [copy] = runtime.load(need())
    runtime.execute(copy, lambda: None, **TRAFFIC)
    runtime.count_numerical_error(copy)
    process = describe_host()["processes"][0]
    assert process["outcomes"] == {"completed": 0, "completed_with_num_err": 1}
    assert process["errors"] == {"numerical": 1}
    assert "INFER_ERROR_SUBTYPE_NUMERICAL" in capfd.readouterr().err


def test_an_execution_that_raises_is_counted():
    """Contract 7.1: ``completed_with_err``; the core is free for the next."""
    runtime = get_runtime()
    [copy] = runtime.load(need())
    with pytest.raises(ZeroDivisionError):
        runtime.execute(copy, lambda: 1 / 0, **TRAFFIC)
    runtime.execute(copy, lambda: None, **TRAFFIC)
    assert describe_host()["processes"][0]["outcomes"] == {"completed": 1, "completed_with_err": 1}


def test_the_record_is_read_by_other_processes():
    """The host's record has each living process, its models and its counts."""
    with Worker(NEURON_RT_NUM_CORES="2", NEURON_PROCESS_TAG="w7") as worker:
        worker.run("copy = get_runtime().load(Need('m', 'inf1', 2, 8))[0]")
        worker.run("get_runtime().execute(copy, int, bytes_in=1, bytes_out=2, items=3, padded=1)")
        deadline = time.monotonic() + 10
        while not cores()[0]["executions"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [core["executions"] for core in cores()] == [1, 1, 0, 0]
        [process] = describe_host()["processes"]
    assert (process["pid"], process["tag"], process["cores"]) == (worker.pid, "w7", (0, 1))
    assert (process["loads"], process["memory_bytes"], process["instance"]) == (1, 16, "inf1.xlarge")
    assert [(model["name"], model["cores"]) for model in process["models"]] == [("m", [0, 1])]


def test_the_record_of_a_dead_process_is_removed(tmp_path):
    """A killed process is not reported, and its file goes."""
    folder = tmp_path / "host"
    with Worker(NEURON_EMULATOR_FOLDER=str(folder)) as worker:
        worker.kill()
    assert (folder / "record-0.json").exists()
    environ = {"NEURON_EMULATOR_FOLDER": str(folder), "NEURON_EMULATOR_INSTANCE": "inf1.xlarge"}
    assert host.describe_host(environ)["processes"] == []
    assert not list(folder.glob("record-*"))


def test_a_record_of_another_owner_is_not_taken_for_ones_own():
    """A process that has just taken its cores is not given the counts of a dead one."""
    get_runtime().load(need())
    path = Path(describe_host()["folder"]) / "record-0.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
    found = host.describe_host()
    assert [(process["pid"], process["loads"]) for process in found["processes"]] == [(os.getpid(), 0)]
    assert found["cores"][0]["pid"] == os.getpid()


def test_the_whole_folder_may_vanish():
    """A request does not fail because the counts cannot be written."""
    runtime = get_runtime()
    [copy] = runtime.load(need())
    shutil.rmtree(describe_host()["folder"])
    assert runtime.execute(copy, lambda: 7, **TRAFFIC) == 7
