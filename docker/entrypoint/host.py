"""What this container may use: NeuronCores, processors, memory."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

INSTANCE_VARIABLE = "NEURON_EMULATOR_INSTANCE"
_DEVICES, _SYSFS = Path("/dev"), Path("/sys/devices/virtual/neuron_device")
_TOOLS = "/opt/aws/neuron/bin"
_FAMILIES = {"inf1": "inf1", "inf2": "inf2", "trn1": "inf2", "trn1n": "inf2"}
_CORES_PER_CHIP = {"inf1": 4, "inf2": 2}  # AWS docs: about-neuron/arch/neuron-hardware/{inf1,inf2}-arch.rst
_GIB_PER_CORE = {"inf1": 2.0, "inf2": 16.0}  # 8 GB over 4 cores, 32 GB over 2: the same pages
_PATIENCE = 30.0  # seconds; neuron-ls asks the driver of every device
_UNLIMITED = 2**60  # what cgroup version 1 says for none


class Host(NamedTuple):
    """What there is to share."""

    cpus: int
    memory: Optional[int]  # bytes; None: no limit is set
    cores: Tuple[int, ...] = ()  # NeuronCores that this container may use
    family: Optional[str] = None  # "inf1" or "inf2"; None: no chip, or an unknown one
    emulated: Optional[str] = None  # instance type of the emulator
    device_bytes: int = 0  # device memory of a core; 0: not known


def look_around(environment: Mapping[str, str]) -> Host:
    """Return what this container may use of the machine, as the kernel and the Neuron driver say."""
    instance = environment.get(INSTANCE_VARIABLE) or None
    devices = sorted(map(str, _DEVICES.glob("neuron[0-9]*")))
    family = None
    if instance is not None:
        family = family_of(instance)
    elif devices:
        family = _read_family()
    cores = _find_cores(environment, family, devices) if instance or devices else []
    return Host(
        cpus=count_cpus(len(os.sched_getaffinity(0)), read_cpu_quota(Path("/sys/fs/cgroup"))),
        memory=read_memory_limit(Path("/sys/fs/cgroup")),
        cores=tuple(limit_cores(cores, environment)),
        family=family or _guess_family(cores, devices),
        emulated=instance,
        device_bytes=int(_GIB_PER_CORE.get(family or "", 0) * 2**30),
    )


def family_of(instance: str) -> Optional[str]:
    """Return the target that an instance type runs: "inf1" of "inf1.xlarge", None of "c5.large"."""
    return _FAMILIES.get(instance.partition(".")[0])


def count_cpus(affinity: int, quota: Optional[float]) -> int:
    """Return how many processors to plan for: those that the process may run on, at most the quota, at least one."""
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def read_cpu_quota(cgroup: Path) -> Optional[float]:
    """Return the processors that a control group of version 2 or 1 may use, or None without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None


def read_memory_limit(cgroup: Path) -> Optional[int]:
    """Return the bytes that a control group of version 2 or 1 may use, or None without a limit."""
    for path in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # "max"
            continue
        return limit if limit < _UNLIMITED else None
    return None


def limit_cores(cores: List[int], environment: Mapping[str, str]) -> List[int]:
    """Return the cores that the Neuron runtime's variables leave to this container.

    AWS's device plugin sets NEURON_RT_VISIBLE_CORES where a pod asked for cores instead of whole devices.
    """
    visible = parse_cores(environment.get("NEURON_RT_VISIBLE_CORES", ""))
    count = environment.get("NEURON_RT_NUM_CORES", "")
    if visible:
        return [core for core in cores if core in visible]
    return cores[: int(count)] if count.isdigit() and int(count) > 0 else cores


def parse_cores(text: str) -> List[int]:
    """Return the core numbers of "0-3" or "0,2,5-6"; none where the text is no such list."""
    found: List[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            return []
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def _find_cores(environment: Mapping[str, str], family: Optional[str], devices: List[str]) -> List[int]:
    listed = _list_devices(environment)
    if listed is not None:
        return number_cores(listed)
    counts = [len(list(path.glob("neuron_core[0-9]*"))) for path in sorted(_SYSFS.glob("neuron[0-9]*"))]
    if not any(counts):
        counts = [_CORES_PER_CHIP.get(family or "inf2", 2) for _ in devices]
    return list(range(sum(counts)))


def _list_devices(environment: Mapping[str, str]) -> Optional[List[Dict[str, Any]]]:
    tool = shutil.which("neuron-ls", path=environment.get("PATH")) or shutil.which("neuron-ls", path=_TOOLS)
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "--json-output"],
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
            env=dict(environment),
        )
        found = json.loads(done.stdout.decode("utf-8"))
        return found if isinstance(found, list) else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def number_cores(devices: List[Dict[str, Any]]) -> List[int]:
    """Return the core numbers of what ``neuron-ls --json-output`` lists."""
    numbers: List[int] = []
    for device in sorted(devices, key=lambda each: int(each.get("neuron_device", 0))):
        ids = device.get("neuroncore_ids")
        numbers += [int(each) for each in ids] if ids else [len(numbers) + n for n in range(int(device["nc_count"]))]
    return sorted(numbers)


def _read_family() -> Optional[str]:
    # AWS docs: tools/neuron-sys-tools/neuron-sysfs-user-guide.rst
    for path in sorted(_SYSFS.glob("neuron[0-9]*/info/architecture/instance_type")):
        try:
            return family_of(path.read_text(errors="replace").strip().lower())
        except OSError:
            continue
    return None


def _guess_family(cores: List[int], devices: List[str]) -> Optional[str]:
    """Return the target by the number of cores on a chip, where the driver does not name the instance."""
    each = len(cores) / len(devices) if devices else 0
    return {4.0: "inf1", 2.0: "inf2"}.get(each)
