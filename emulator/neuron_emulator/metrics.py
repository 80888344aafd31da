"""The metric groups of ``neuron-monitor``: what each reports about the time between two readings of the host.

The names are those of AWS Neuron docs: tools/neuron-sys-tools/neuron-monitor-user-guide.rst. The emulator knows nothing
of a chip's speed: latencies and flops are null. Utilisation is the share of the time for which this CPU was busy with
what the core was to do.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from neuron_emulator.host import describe_host
from neuron_emulator.system import (
    CpuTimes,
    describe_usage,
    read_cpu_times,
    read_memory,
    read_process_memory,
    read_process_times,
)

ERRORS = ("generic", "numerical", "transient", "model", "runtime", "hardware")
OUTCOMES = (
    "completed",
    "completed_with_err",
    "completed_with_num_err",
    "timed_out",
    "incorrect_input",
    "failed_to_queue",
)
Process = dict[str, Any]  # as describe_host gives it


@dataclass(frozen=True)
class Reading:
    """The host at one moment."""

    time: float  # seconds on the monotonic clock
    host: dict[str, Any]
    cpu: CpuTimes
    process_times: dict[int, tuple[float, float]] = field(default_factory=dict)  # by process number

    def find(self, process: Process) -> Process | None:
        """Return the same process as it was at this moment, or None if it was not there."""
        same = (each for each in self.host["processes"] if _identity(each) == _identity(process))
        return next(same, None)


def take_reading() -> Reading:
    """Return the host as it is now."""
    host = describe_host()
    times = {process["pid"]: read_process_times(process["pid"]) for process in host["processes"]}
    return Reading(time.monotonic(), host, read_cpu_times(), times)


def report_cores(process: Process, before: Reading, after: Reading) -> dict[str, Any]:
    """Return ``neuroncores_in_use``: each core that the process owns, idle ones included."""
    earlier = before.find(process)
    seconds = _seconds(before, after)
    cores = {}
    for core, counts in process["per_core"].items():
        start = earlier["per_core"].get(core, {}).get("busy_seconds", 0.0) if earlier else 0.0
        busy = min(1.0, max(0.0, counts["busy_seconds"] - start) / seconds)
        cores[str(core)] = {"neuroncore_utilization": round(100 * busy, 2), "flops": None}
    return {"neuroncores_in_use": cores}


def report_executions(process: Process, before: Reading, after: Reading) -> dict[str, Any]:
    """Return how many executions ended how between the readings; latencies are null."""
    earlier = before.find(process) or {"errors": {}, "outcomes": {}}

    def count(kind: str, names: tuple[str, ...]) -> dict[str, int]:
        return {name: max(0, process[kind].get(name, 0) - earlier[kind].get(name, 0)) for name in names}

    return {
        "error_summary": count("errors", ERRORS),
        "execution_summary": count("outcomes", OUTCOMES),
        "latency_stats": {"total_latency": None, "device_latency": None},
    }


def report_memory(process: Process, before: Reading, after: Reading) -> dict[str, Any]:
    """Return the memory that the process occupies on host and device, and its models."""
    host = read_process_memory(process["pid"])
    per_core = {str(core): _device_memory(counts["memory_bytes"]) for core, counts in process["per_core"].items()}
    instance = after.host["instance"]
    per_chip = instance["cores"] // instance["chips"] if instance else 1
    return {
        "neuron_runtime_used_bytes": {
            "host": host,
            "neuron_device": process["memory_bytes"],
            "usage_breakdown": {"host": _host_memory(host), "neuroncore_memory_usage": per_core},
        },
        "loaded_models": [_describe_model(model, per_chip) for model in process["models"]],
    }


def report_process_cpu(process: Process, before: Reading, after: Reading) -> dict[str, Any]:
    """Return the process's share of one processor in percent."""
    start = before.process_times.get(process["pid"], (0.0, 0.0))
    end = after.process_times.get(process["pid"], start)
    user, system = (round(100 * max(0.0, b - a) / _seconds(before, after), 2) for a, b in zip(start, end, strict=True))
    return {"vcpu_usage": {"user": user, "system": system}}


def report_cpu(before: Reading, after: Reading) -> dict[str, Any]:
    """Return what the machine's processors did, on average and each."""
    return {
        "average_usage": describe_usage(before.cpu.total, after.cpu.total),
        "usage_data": {
            name: describe_usage(before.cpu.each.get(name, row), row) for name, row in after.cpu.each.items()
        },
        "context_switch_count": after.cpu.context_switches - before.cpu.context_switches,
    }


def report_host_memory(before: Reading, after: Reading) -> dict[str, Any]:
    """Return the machine's memory and swap."""
    return dict(read_memory())


def report_hardware_counters(before: Reading, after: Reading) -> dict[str, Any]:
    """Return the memory errors of each device: an emulated one has none."""
    kinds = ("mem_ecc_corrected", "mem_ecc_uncorrected", "sram_ecc_uncorrected", "sram_ecc_corrected")
    instance = after.host["instance"]
    chips = instance["chips"] if instance else 0
    return {"neuron_devices": [{"neuron_device_index": chip, **dict.fromkeys(kinds, 0)} for chip in range(chips)]}


RUNTIME_GROUPS: dict[str, Callable[[Process, Reading, Reading], dict[str, Any]]] = {
    "neuroncore_counters": report_cores,
    "execution_stats": report_executions,
    "memory_used": report_memory,
    "neuron_runtime_vcpu_usage": report_process_cpu,
}
SYSTEM_GROUPS: dict[str, Callable[[Reading, Reading], dict[str, Any]]] = {
    "vcpu_usage": report_cpu,
    "memory_info": report_host_memory,
    "neuron_hw_counters": report_hardware_counters,
}


def _identity(process: Process) -> tuple[int, float]:
    return process["pid"], process["started"]  # a process number is used again one day


def _seconds(before: Reading, after: Reading) -> float:
    return max(after.time - before.time, 1e-6)


def _host_memory(application: int) -> dict[str, int]:
    return {"application_memory": application, "constants": 0, "dma_buffers": 0, "tensors": 0}


def _device_memory(constants: int) -> dict[str, int]:
    """Return the parts of a core's memory; the emulator knows the sum only, and calls all of it constants."""
    parts = {"model_code": 0, "model_shared_scratchpad": 0, "runtime_memory": 0, "tensors": 0}
    return {"constants": constants, **parts}


def _describe_model(model: dict[str, Any], per_chip: int) -> dict[str, Any]:
    size = model["bytes_per_core"]
    subgraphs = {
        f"sg_{number:02d}": {
            "memory_used_bytes": {
                "host": 0,
                "neuron_device": size,
                "usage_breakdown": {"host": _host_memory(0), "neuron_device": _device_memory(size)},
            },
            "neuroncore_index": core,
            "neuron_device_index": core // per_chip,
        }
        for number, core in enumerate(model["cores"])
    }
    uuid = hashlib.sha256(model["name"].encode()).hexdigest()[:32]
    return {
        "name": model["name"],
        "uuid": uuid,
        "model_id": model["model_id"],
        "is_running": True,
        "subgraphs": subgraphs,
    }
