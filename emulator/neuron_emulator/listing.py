"""``neuron-ls`` for the emulated host: its devices, and the processes on them, as a table or as JSON.

The fields are those of AWS Neuron docs: tools/neuron-sys-tools/neuron-ls.rst; ``emulated`` is added to each device.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from neuron_emulator.host import describe_host
from neuron_emulator.instances import Instance, current_instance

RUNTIME_VERSION = "emulated"
_SHORT_COMMAND = 40  # characters of a command in the table, without --wide
_HEADERS = ("DEVICE", "CORES", "MEMORY", "CONNECTED", "PCI BDF", "PID", "COMMAND", "RUNTIME")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the devices of the emulated host; return 1 if it has none."""
    options = _parse(arguments)
    instance = current_instance()
    if instance is None:
        # The real tool's text is not documented; this one is the emulator's.
        print("neuron-ls: no neuron device found: NEURON_EMULATOR_INSTANCE names no instance", file=sys.stderr)
        return 1
    devices = list_devices(instance, describe_host(), include_self=options.show_all_procs)
    if options.json_output:
        print(json.dumps(devices, indent=4))
        return 0
    print(f"emulated {instance.name}: nothing here is real hardware")
    print(format_table(devices, wide=options.wide))
    if options.topology:
        print("\nNeuron Device Topology\n  " + " <--> ".join(f"[{each['neuron_device']}]" for each in devices))
    return 0


def list_devices(instance: Instance, host: dict[str, Any], *, include_self: bool = False) -> list[dict[str, Any]]:
    """Return one dict for each chip, with the fields that ``neuron-ls --json-output`` documents."""
    return [_describe_device(chip, instance, host, include_self=include_self) for chip in range(instance.chips)]


def format_table(devices: Sequence[dict[str, Any]], *, wide: bool) -> str:
    """Return the devices as a table, a line for each process on each."""
    rows: list[tuple[str, ...]] = [_HEADERS]
    for device in devices:
        connected = ", ".join(map(str, device["connected_to"] or []))
        memory = f"{device['memory_size'] >> 30} GB"
        start = (str(device["neuron_device"]), str(device["nc_count"]), memory, connected, device["bdf"])
        for number, process in enumerate(device["neuron_processes"] or [None]):
            rows.append((start if number == 0 else ("",) * 5) + _process_cells(process, wide=wide))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADERS))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("neuron-ls", description="List the Neuron devices of the emulated host.")
    parser.add_argument("-w", "--wide", action="store_true", help="do not shorten commands")
    parser.add_argument("-a", "--show-all-procs", action="store_true", help="list this command as well")
    parser.add_argument("-t", "--topology", action="store_true", help="show how the devices are connected")
    parser.add_argument("-j", "--json-output", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _describe_device(chip: int, instance: Instance, host: dict[str, Any], *, include_self: bool) -> dict[str, Any]:
    count = instance.cores_per_chip
    cores = range(chip * count, (chip + 1) * count)
    # A chain; which chips are linked on which instance is not in the documents that this table rests on.
    connected = [each for each in (chip - 1, chip + 1) if 0 <= each < instance.chips]
    processes = [
        {"pid": process["pid"], "command": process["command"], "neuron_runtime_version": RUNTIME_VERSION}
        for process in host["processes"]
        if set(process["cores"]) & set(cores)
    ]
    if include_self:
        processes.append({"pid": os.getpid(), "command": " ".join(sys.argv), "neuron_runtime_version": "NA"})
    return {
        "neuron_device": chip,
        "bdf": f"00:{0x1F - chip:02x}.0",
        "cpu_affinity": f"0-{instance.vcpus - 1}",
        "numa_node": "0",
        "connected_to": connected or None,
        "nc_count": count,
        "logical_neuroncore_config": 2 if instance.family == "trn2" and instance.cores == 64 else 1,
        "memory_size": instance.device_bytes_per_chip,
        "neuroncore_ids": list(cores),
        "neuron_processes": processes,
        "emulated": True,
    }


def _process_cells(process: dict[str, Any] | None, *, wide: bool) -> tuple[str, str, str]:
    if process is None:
        return "", "", ""
    command = " ".join(process["command"].split())  # a program given with -c has lines
    if not wide and len(command) > _SHORT_COMMAND:
        command = command[: _SHORT_COMMAND - 3] + "..."
    return str(process["pid"]), command, process["neuron_runtime_version"]
