"""``neuron-monitor`` for the emulated host: one JSON document a period on standard output.

Options, configuration and fields are those of AWS Neuron docs: tools/neuron-sys-tools/neuron-monitor-user-guide.rst;
``emulated`` is added at the top.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_emulator.instances import Instance, current_instance
from neuron_emulator.metrics import RUNTIME_GROUPS, SYSTEM_GROUPS, Reading, take_reading

DEFAULT_PERIOD = 5.0  # seconds
_SHORTEST_PERIOD = 0.05  # a slip in the file must not become a busy loop
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Device and core versions by family; those of trn2 are from the guide, the others follow its pattern.
_DEVICES = {
    "inf1": ("inferentia", "v1", "v1"),
    "trn1": ("trainium", "v2", "v2"),
    "trn1n": ("trainium", "v2", "v2"),
    "inf2": ("inferentia2", "v3", "v2"),
    "trn2": ("trainium2", "v4", "v3d"),
}


@dataclass(frozen=True)
class Group:
    """A metric group that is wanted."""

    name: str
    period: float  # seconds between two updates
    tag_filter: str | None  # which processes, a regular expression; None for a group of the system


def main(arguments: Sequence[str] | None = None) -> int:
    """Print reports until interrupted; return 2 for a configuration that cannot be read."""
    parser = argparse.ArgumentParser("neuron-monitor", description="Report what the emulated host does.")
    parser.add_argument("-c", "--config-file", type=Path, help="JSON with period, neuron_runtimes, system_metrics")
    parser.add_argument("--verbose", type=int, default=0, choices=range(5), help="accepted, without effect")
    options = parser.parse_args(arguments)
    try:
        groups = read_groups(json.loads(options.config_file.read_text())) if options.config_file else default_groups()
    except (OSError, ValueError) as exc:
        print(f"neuron-monitor: {options.config_file}: {exc}", file=sys.stderr)
        return 2
    with suppress(KeyboardInterrupt, BrokenPipeError):
        Monitor(groups).run()
    return 0


def default_groups() -> list[Group]:
    """Return every group for every process, each five seconds."""
    runtime = [Group(name, DEFAULT_PERIOD, ".*") for name in RUNTIME_GROUPS]
    return runtime + [Group(name, DEFAULT_PERIOD, None) for name in SYSTEM_GROUPS]


def read_groups(config: Any) -> list[Group]:
    """Return the groups of a configuration file's content; raises ``ValueError`` that says what is wrong where.

    ``period`` may stand at the top, at an entry of ``neuron_runtimes`` and at a metric; the innermost counts.
    """
    if not isinstance(config, dict):
        raise ValueError("expected an object with period, neuron_runtimes and system_metrics")
    period = config.get("period", f"{DEFAULT_PERIOD}s")
    groups = []
    for entry in config.get("neuron_runtimes", []):
        re.compile(entry.get("tag_filter", ".*"))
        for metric in entry.get("metrics", []):
            groups.append(_read_group(metric, entry.get("period", period), entry.get("tag_filter", ".*")))
    groups += [_read_group(metric, period, None) for metric in config.get("system_metrics", [])]
    if not groups:
        raise ValueError("no metric groups: name some under neuron_runtimes or system_metrics")
    return groups


class Monitor:
    """Reports the groups, each at its own period."""

    def __init__(self, groups: Sequence[Group]) -> None:
        start = take_reading()
        self._groups = groups
        self._readings = dict.fromkeys(groups, start)  # the last of each group
        self._results: dict[tuple[Group, int], dict[str, Any]] = {}  # by group and process; 0 for the system's

    def run(self) -> None:
        """Print one document whenever a group is due; does not return."""
        while True:
            due = min(self._readings[group].time + group.period for group in self._groups)
            time.sleep(max(0.0, due - time.monotonic()))
            print(json.dumps(self.report()), flush=True)

    def report(self) -> dict[str, Any]:
        """Return the document now: groups that are due are read anew, the others are as they were."""
        now = take_reading()
        for group in self._groups:
            if now.time - self._readings[group].time >= group.period - 1e-3:
                self._update(group, now)
        system = {group.name: self._results[group, 0] for group in self._groups if (group, 0) in self._results}
        return {
            "neuron_runtime_data": self._report_processes(now),
            "system_data": system,
            "instance_info": describe_instance(current_instance()),
            "neuron_hardware_info": describe_hardware(current_instance()),
            "emulated": True,
        }

    def _update(self, group: Group, now: Reading) -> None:
        before = self._readings[group]
        self._readings[group] = now
        common = {"period": now.time - before.time, "error": ""}
        if group.tag_filter is None:
            self._results[group, 0] = {**common, **SYSTEM_GROUPS[group.name](before, now)}
            return
        self._results = {key: value for key, value in self._results.items() if key[0] != group}
        for process in now.host["processes"]:
            if re.search(group.tag_filter, process["tag"]):
                report = RUNTIME_GROUPS[group.name](process, before, now)
                self._results[group, process["pid"]] = {**common, **report}

    def _report_processes(self, now: Reading) -> list[dict[str, Any]]:
        reports = []
        for process in now.host["processes"]:
            pid = process["pid"]
            found = {group.name: self._results[group, pid] for group in self._groups if (group, pid) in self._results}
            if found:
                tag = process["tag"]
                reports.append({"pid": pid, "address": "", "neuron_runtime_tag": tag, "error": "", "report": found})
        return reports


def describe_instance(instance: Instance | None) -> dict[str, str]:
    """Return ``instance_info``; its name says that it is emulated."""
    name = instance.name if instance else "host without Neuron devices"
    places = ("instance_availability_zone", "instance_availability_zone_id", "instance_region", "ami_id", "subnet_id")
    kind = instance.name if instance else ""
    known = {"instance_name": f"emulated {name}", "instance_id": "emulated", "instance_type": kind}
    return {**known, **dict.fromkeys(places, ""), "error": ""}


def describe_hardware(instance: Instance | None) -> dict[str, Any]:
    """Return ``neuron_hardware_info``; with an error where there is no device."""
    if instance is None:
        return {"neuron_device_count": 0, "error": "no neuron device: NEURON_EMULATOR_INSTANCE names no instance"}
    device, version, core_version = _DEVICES[instance.family]
    pairs = instance.family == "trn2" and instance.cores_per_chip == 4
    return {
        "neuron_device_type": device,
        "neuron_device_version": version,
        "neuroncore_version": core_version,
        "neuron_device_count": instance.chips,
        "neuron_device_memory_size": instance.device_bytes_per_chip,
        "neuroncore_per_device_count": instance.cores_per_chip,
        "logical_neuroncore_config": 2 if pairs else 1,
        "error": "",
    }


def _read_group(metric: Any, period: str, tag_filter: str | None) -> Group:
    known = SYSTEM_GROUPS if tag_filter is None else RUNTIME_GROUPS
    name = metric.get("type")
    if name not in known:
        raise ValueError(f"unknown metric type {name!r}: expected one of {', '.join(known)}")
    return Group(name, _read_period(metric.get("period", period)), tag_filter)


def _read_period(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", str(text))
    if not found:
        raise ValueError(f'period {text!r}: expected a number and a unit, such as "1s" or "500ms"')
    return max(_SHORTEST_PERIOD, float(found[1]) * _UNITS[found[2]])
