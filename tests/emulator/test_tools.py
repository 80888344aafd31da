"""``neuron-ls`` and ``neuron-monitor`` of the emulated host, run as programs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.processes import EMULATOR, Worker

GROUPS = ["neuroncore_counters", "memory_used", "neuron_runtime_vcpu_usage", "execution_stats"]


def neuron_ls(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EMULATOR / "bin" / "neuron-ls"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def monitor(config: Any, folder: Path, documents: int = 1) -> list[dict]:
    """Return the first documents that neuron-monitor prints with a configuration."""
    (folder / "monitor.conf").write_text(json.dumps(config))
    command = [str(EMULATOR / "bin" / "neuron-monitor"), "-c", str(folder / "monitor.conf")]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        return [json.loads(process.stdout.readline()) for _ in range(documents)]
    finally:
        process.terminate()
        process.communicate()


def runtimes(*groups: str, **more: str) -> dict:
    return {"period": "200ms", "neuron_runtimes": [{**more, "metrics": [{"type": group} for group in groups]}]}


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A process with two of four cores and a model of 1,000 bytes on the first."""
    with Worker(NEURON_RT_NUM_CORES="2", NEURON_PROCESS_TAG="app-1") as worker:
        worker.run("copy = get_runtime().load(Need('net', 'inf1', 1, 1000))[0]")
        worker.run("execute = lambda: get_runtime().execute(copy, int, bytes_in=0, bytes_out=0, items=1, padded=0)")
        yield worker


@pytest.mark.parametrize("option", ["-j", "--json-output"])
def test_devices_are_listed_as_json(monkeypatch, option, worker):
    """Contract 7.3: each device with its documented fields, and who holds cores."""
    [device] = json.loads(neuron_ls(option).stdout)
    assert set(device) == {
        "neuron_device",
        "bdf",
        "cpu_affinity",
        "numa_node",
        "connected_to",
        "nc_count",
        "logical_neuroncore_config",
        "memory_size",
        "neuroncore_ids",
        "neuron_processes",
        "emulated",
    }
    assert (device["neuron_device"], device["nc_count"], device["neuroncore_ids"]) == (0, 4, [0, 1, 2, 3])
    assert (device["memory_size"], device["emulated"]) == (8 << 30, True)
    [process] = device["neuron_processes"]
    assert set(process) == {"pid", "command", "neuron_runtime_version"}
    assert process["pid"] == worker.pid
    assert "-S -c" in process["command"]


def test_a_process_is_listed_at_the_devices_of_its_cores(monkeypatch):
    """Contract 7.3: best tool to find who holds cores."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf1.6xlarge")
    with Worker(NEURON_RT_VISIBLE_CORES="3-4") as owner:
        devices = json.loads(neuron_ls("-j").stdout)
    assert [[each["pid"] for each in device["neuron_processes"]] for device in devices] == [[owner.pid]] * 2 + [[]] * 2
    assert [device["neuroncore_ids"][0] for device in devices] == [0, 4, 8, 12]


def test_the_table_has_devices_and_processes(worker):
    """Contract 7.3: without -j a table, which says that the host is emulated."""
    lines = neuron_ls().stdout.splitlines()
    assert "emulated inf1.xlarge" in lines[0]
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["DEVICE", "CORES", "MEMORY"]
    assert f"| {worker.pid} " in lines[4]
    assert len({len(line) for line in lines[1:]}) == 1


def test_options_of_the_table(worker):
    """Contract 7.3: flags -w wide, -a all processes, -t topology."""
    assert "..." in neuron_ls().stdout
    assert "..." not in neuron_ls("-w").stdout.partition("Topology")[0].replace("...get", "")
    assert "neuron-ls" in neuron_ls("-a", "-w").stdout.partition("\n")[2]
    assert "[0]" in neuron_ls("-t").stdout


def test_a_host_without_devices_has_nothing_to_list(monkeypatch):
    """Scripts see it by the exit status."""
    monkeypatch.delenv("NEURON_EMULATOR_INSTANCE")
    done = neuron_ls("-j")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no neuron device found" in done.stderr


def test_the_monitor_prints_one_document_a_period(tmp_path, worker):
    """Contract 7.1: one JSON document per period on stdout; every group carries ``period`` and ``error``."""
    began = time.monotonic()
    documents = monitor(runtimes(*GROUPS), tmp_path, documents=3)
    assert 0.6 <= time.monotonic() - began < 20
    for document in documents:
        [process] = document["neuron_runtime_data"]
        for group in process["report"].values():
            assert group["error"] == ""
            assert 0.19 < group["period"] < 5


def test_the_top_of_a_document(tmp_path, worker):
    """Contract 7.1: top-level keys; the name of the instance says that it is emulated."""
    [document] = monitor({"period": "100ms", "system_metrics": [{"type": "memory_info"}]}, tmp_path)
    assert set(document) == {
        "neuron_runtime_data",
        "system_data",
        "instance_info",
        "neuron_hardware_info",
        "emulated",
    }
    assert document["instance_info"]["instance_name"] == "emulated inf1.xlarge"
    assert document["instance_info"]["instance_type"] == "inf1.xlarge"
    assert document["instance_info"]["error"] == ""
    hardware = document["neuron_hardware_info"]
    assert (hardware["neuron_device_type"], hardware["neuroncore_version"]) == ("inferentia", "v1")
    assert (hardware["neuron_device_count"], hardware["neuroncore_per_device_count"]) == (1, 4)
    assert (hardware["neuron_device_memory_size"], hardware["logical_neuroncore_config"]) == (8 << 30, 1)


def test_a_process_is_reported_with_its_name(tmp_path, worker):
    """Contract 7.1: ``pid``, ``address``, ``neuron_runtime_tag``, ``error``, ``report``."""
    [document] = monitor(runtimes(*GROUPS), tmp_path)
    [process] = document["neuron_runtime_data"]
    assert set(process) == {"pid", "address", "neuron_runtime_tag", "error", "report"}
    assert (process["pid"], process["neuron_runtime_tag"]) == (worker.pid, "app-1")
    assert set(process["report"]) == set(GROUPS)


def test_cores_that_are_owned_but_idle_are_reported(tmp_path, worker):
    """Contract 7.1, 7.2: ``neuroncores_in_use``, indexed by core; cores owned but idle are there."""
    [document] = monitor(runtimes("neuroncore_counters"), tmp_path)
    cores = document["neuron_runtime_data"][0]["report"]["neuroncore_counters"]["neuroncores_in_use"]
    assert cores == {core: {"neuroncore_utilization": 0.0, "flops": None} for core in ("0", "1")}


def test_executions_of_the_period_are_counted(tmp_path, worker):
    """Contract 7.1: ``error_summary``, ``execution_summary``; latencies are null, the emulator claims no speed."""
    process = subprocess.Popen(
        [sys.executable, str(EMULATOR / "bin" / "neuron-monitor"), "-c", write(tmp_path, runtimes("execution_stats"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    worker.run("execute()")
    done = 0
    for _ in range(20):
        stats = json.loads(process.stdout.readline())["neuron_runtime_data"][0]["report"]["execution_stats"]
        done += stats["execution_summary"]["completed"]
    process.terminate()
    process.communicate()
    assert done == 1
    assert list(stats["error_summary"]) == ["generic", "numerical", "transient", "model", "runtime", "hardware"]
    assert set(stats["execution_summary"]) == {
        "completed",
        "completed_with_err",
        "completed_with_num_err",
        "timed_out",
        "incorrect_input",
        "failed_to_queue",
    }
    assert stats["latency_stats"] == {"total_latency": None, "device_latency": None}


def write(folder: Path, config: dict) -> str:
    (folder / "monitor.conf").write_text(json.dumps(config))
    return str(folder / "monitor.conf")


def test_memory_and_models_are_reported(tmp_path, worker):
    """Contract 7.1: ``neuron_runtime_used_bytes`` and ``loaded_models``."""
    [document] = monitor(runtimes("memory_used"), tmp_path)
    used = document["neuron_runtime_data"][0]["report"]["memory_used"]
    assert used["neuron_runtime_used_bytes"]["neuron_device"] == 1000
    assert used["neuron_runtime_used_bytes"]["host"] > 1 << 20
    breakdown = used["neuron_runtime_used_bytes"]["usage_breakdown"]
    assert set(breakdown["host"]) == {"application_memory", "constants", "dma_buffers", "tensors"}
    assert sum(breakdown["neuroncore_memory_usage"]["0"].values()) == 1000
    assert sum(breakdown["neuroncore_memory_usage"]["1"].values()) == 0
    [model] = used["loaded_models"]
    assert (model["name"], model["is_running"]) == ("net", True)
    assert model["subgraphs"]["sg_00"]["memory_used_bytes"]["neuron_device"] == 1000
    assert (model["subgraphs"]["sg_00"]["neuroncore_index"], model["subgraphs"]["sg_00"]["neuron_device_index"]) == (
        0,
        0,
    )


def test_the_system_is_reported(tmp_path):
    """Contract 7.1: ``vcpu_usage``, ``memory_info``, ``neuron_hw_counters``."""
    groups = [{"type": name} for name in ("vcpu_usage", "memory_info", "neuron_hw_counters")]
    [document] = monitor({"period": "200ms", "system_metrics": groups}, tmp_path)
    system = document["system_data"]
    assert abs(sum(system["vcpu_usage"]["average_usage"].values()) - 100) < 1
    assert len(system["vcpu_usage"]["usage_data"]) == os.cpu_count()
    assert 0 < system["memory_info"]["memory_used_bytes"] < system["memory_info"]["memory_total_bytes"]
    [device] = system["neuron_hw_counters"]["neuron_devices"]
    assert device == {
        "neuron_device_index": 0,
        "mem_ecc_corrected": 0,
        "mem_ecc_uncorrected": 0,
        "sram_ecc_uncorrected": 0,
        "sram_ecc_corrected": 0,
    }


@pytest.mark.parametrize(("pattern", "found"), [(".*", 1), ("app-", 1), ("^other$", 0)])
def test_processes_are_chosen_by_their_tag(tmp_path, worker, pattern, found):
    """Contract 7.1: ``tag_filter``."""
    [document] = monitor(runtimes("execution_stats", tag_filter=pattern), tmp_path)
    assert len(document["neuron_runtime_data"]) == found


def test_a_group_can_have_a_period_of_its_own(tmp_path):
    """Contract 7.1: ``metrics: [{type, period}]``."""
    groups = [{"type": "memory_info"}, {"type": "neuron_hw_counters", "period": "400ms"}]
    documents = monitor({"period": "100ms", "system_metrics": groups}, tmp_path, documents=6)
    assert "neuron_hw_counters" not in documents[0]["system_data"]
    assert documents[5]["system_data"]["neuron_hw_counters"]["period"] >= 0.399


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"system_metrics": [{"type": "nonsense"}]}, "unknown metric type 'nonsense': expected one of vcpu_usage"),
        ({"period": "5", "system_metrics": [{"type": "memory_info"}]}, "period '5': expected a number and a unit"),
        ({}, "no metric groups"),
        ([], "expected an object"),
    ],
)
def test_a_bad_configuration_is_explained(tmp_path, config, message):
    """The message has the value and what was expected; the exit status is 2."""
    command = [sys.executable, str(EMULATOR / "bin" / "neuron-monitor"), "-c", write(tmp_path, config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_host_without_devices_is_reported_as_such(tmp_path, monkeypatch):
    """Contract 7.1: ``error`` of neuron_hardware_info tells why there is none."""
    monkeypatch.delenv("NEURON_EMULATOR_INSTANCE")
    [document] = monitor({"period": "100ms", "system_metrics": [{"type": "memory_info"}]}, tmp_path)
    assert "no neuron device" in document["neuron_hardware_info"]["error"]


@pytest.mark.parametrize("name", ["neuron-ls", "neuron-monitor"])
def test_the_tools_are_programs(name):
    """They are found on PATH and started by name."""
    assert os.access(EMULATOR / "bin" / name, os.X_OK)
    done = subprocess.run([str(EMULATOR / "bin" / name), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
