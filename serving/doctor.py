"""What is wrong with this machine for building and serving: one finding for each thing looked at, and what to do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from handlers import cores, neuron
from handlers.errors import KitError
from serving import runs
from serving.host import read_cpu_quota
from serving.java import find_java
from serving.ports import Ports, describe_listener, is_free

OK, WARNING, ERROR = "ok", "warning", "error"
_DISK_WANTED = 2_000_000_000  # bytes: an environment takes about 1 GB, logs and unpacked archives some more
_MEMORY_WANTED = 1_500_000_000  # bytes: the JVM and two workers with torch
_TESTED_TORCHSERVE = ("0.11.0", "0.12.0")
_DRIVER = Path("/sys/module/neuron")  # there while the kernel has the module loaded


@dataclass(frozen=True)
class Finding:
    """What was found of one thing."""

    what: str  # was looked at
    level: str  # ok, warning or error
    found: str
    advice: str = ""  # what to do; empty where nothing is to be done


def examine(port: int, store: Path) -> list[Finding]:
    """Return the findings of every check, in an order to read them in; a check that fails itself is an error."""
    checks: dict[str, Callable[[], Finding]] = {
        "python": _check_python,
        "torch": lambda: _check_package("torch", ERROR),
        "torchserve": lambda: _check_package("torchserve", ERROR),
        "torch-model-archiver": lambda: _check_package("torch-model-archiver", ERROR),
        "java": _check_java,
        "ports": lambda: _check_ports(port),
        "disk for servers": lambda: _check_disk("disk for servers", runs.base_folder()),
        "disk for archives": lambda: _check_disk("disk for archives", store),
        "memory": _check_memory,
        "processors": _check_processors,
        "neuron": _check_neuron,
        "neuron driver": _check_driver,
        "leases": _check_leases,
        "servers": _check_servers,
    }
    return [_run(what, check) for what, check in checks.items()]


def _run(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except KitError as exc:
        return Finding(what, ERROR, str(exc))  # our own errors say what to do
    except (OSError, psutil.Error, ValueError, subprocess.SubprocessError) as exc:
        return Finding(what, ERROR, f"{type(exc).__name__}: {exc}", "mend this first; it keeps the check from running")


def _check_python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < (3, 11):  # noqa: UP036  an old .venv may be what is being looked into
        return Finding("python", ERROR, found, "use Python 3.11 or newer: remove .venv and run make venv")
    return Finding("python", OK, found)


def _check_package(name: str, missing: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, missing, "not installed", "run: make venv")
    if name == "torchserve" and found not in _TESTED_TORCHSERVE:
        return Finding(name, WARNING, found, f"the kit is tested with {' and '.join(_TESTED_TORCHSERVE)}")
    return Finding(name, OK, found)


def _check_java() -> Finding:
    java = find_java()
    return Finding("java", OK, f"{java.version} at {java.home} (from {java.origin})")


def _check_ports(port: int) -> Finding:
    ports = Ports.starting_at(port)
    wanted = [ports.inference, ports.management, ports.metrics, ports.grpc_inference, ports.grpc_management]
    taken = [each for each in wanted if each and not is_free(each)]
    if not taken:
        return Finding("ports", OK, f"{', '.join(str(each) for each in wanted if each)} are free")
    if runs.RunFolder(port).read() is not None:
        return Finding("ports", OK, f"{', '.join(map(str, taken))} are used by our own server")
    users = ", ".join(f"{each} ({describe_listener(each)})" for each in taken)
    return Finding("ports", WARNING, f"in use: {users}", "stop what listens there, or serve with another PORT=")


def _check_disk(what: str, folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if free < _DISK_WANTED / 10:
        return Finding(what, ERROR, found, "free some space")
    if free < _DISK_WANTED:
        return Finding(what, WARNING, found, f"{_DISK_WANTED / 1e9:.0f} GB are comfortable; free some space")
    return Finding(what, OK, found)


def _check_memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < _MEMORY_WANTED:
        return Finding("memory", WARNING, found, "the JVM and two workers take about 1.5 GB; serve with WORKERS=1")
    return Finding("memory", OK, found)


def _check_processors() -> Finding:
    cpus = cores.host_cpus()
    quota = read_cpu_quota()
    found = f"{len(cpus)} for this process"
    if quota is not None and quota < len(cpus):
        advice = f"the container may use {quota:g} of them; serve with WORKERS={max(1, int(quota))}"
        return Finding("processors", WARNING, f"{found}, quota {quota:g}", advice)
    return Finding("processors", OK, found)


def _check_neuron() -> Finding:
    devices, instance = neuron.find_devices(), os.environ.get(neuron.INSTANCE_VARIABLE)
    tool = shutil.which("neuron-ls")
    if tool is None:
        if devices:
            advice = "install aws-neuronx-tools, which tells what the devices are"
            return Finding("neuron", WARNING, f"{len(devices)} devices, no neuron-ls", advice)
        return Finding("neuron", OK, "no Neuron device; the target cpu works anywhere")
    done = subprocess.run([tool, "--json-output"], capture_output=True, text=True, timeout=60, check=False)
    try:
        count = sum(int(device["nc_count"]) for device in json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        return Finding("neuron", WARNING, f"neuron-ls failed: {(done.stderr or done.stdout).strip()[:200]}", "run it")
    what = f"EMULATED ({instance})" if instance else f"{len(devices)} devices"
    held = [each for each in cores.lease_holders() if each.kind == neuron.core_kind()]
    users = ", ".join(sorted({f"process {each.pid} ({each.label})" for each in held}))
    taken = f", {len(held)} held by {users}" if held else ", none held by a worker"
    return Finding("neuron", OK, f"{what}, {count} NeuronCores{taken}")


def _check_driver() -> Finding:
    devices, version_file = neuron.find_devices(), _DRIVER / "version"
    if not _DRIVER.is_dir():
        if devices:
            advice = "the host, outside the container, needs aws-neuronx-dkms (on inf1: 2.24.*)"
            return Finding("neuron driver", WARNING, f"{len(devices)} devices, and no module in {_DRIVER}", advice)
        return Finding("neuron driver", OK, "not loaded; only a host with a chip needs it")
    found = version_file.read_text().strip() if version_file.is_file() else "of unknown version"
    if not devices:
        advice = "in a container, give it the device with --device=/dev/neuron0; else look at dmesg"
        return Finding("neuron driver", WARNING, f"{found}, and no /dev/neuron0", advice)
    return Finding("neuron driver", OK, found)


def _check_leases() -> Finding:
    holders = cores.lease_holders()
    listed = ", ".join(f"{each.kind} {each.core} by {each.pid} ({each.label})" for each in holders)
    shared = [each for each in holders if each.place > 0]
    if shared:
        return Finding("leases", WARNING, listed, "workers share cores and slow each other; serve with fewer WORKERS=")
    return Finding("leases", OK, listed or f"none in {cores.lease_folder()}")


def _check_servers() -> Finding:
    states = runs.list_servers()
    listed = ", ".join(f"{state.model} on {state.port} (process {state.pid})" for state in states)
    return Finding("servers", OK, listed or f"none of ours (user {os.getuid()})")
