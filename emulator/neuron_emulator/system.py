"""What Linux says about this machine's processors and memory, for ``neuron-monitor``."""

import os
from dataclasses import dataclass
from pathlib import Path

_KINDS = ("user", "nice", "system", "idle", "io_wait", "irq", "soft_irq")  # the order of /proc/stat
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTimes:
    """How long the processors have spent on what, in ticks since the start of the machine."""

    total: tuple[int, ...]  # of all processors; as _KINDS
    each: dict[str, tuple[int, ...]]  # by the processor's number
    context_switches: int


def read_cpu_times() -> CpuTimes:
    """Return the processors' times now."""
    rows: dict[str, tuple[int, ...]] = {}
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *values = line.split()
        rows[name] = tuple(int(value) for value in values)
    each = {name[3:]: row[:7] for name, row in rows.items() if name.startswith("cpu") and name != "cpu"}
    return CpuTimes(rows["cpu"][:7], each, rows.get("ctxt", (0,))[0])


def read_memory() -> dict[str, int]:
    """Return total and used memory and swap in bytes, under ``neuron-monitor``'s names."""
    kib: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    return {
        "memory_total_bytes": kib["MemTotal"] * 1024,
        "memory_used_bytes": (kib["MemTotal"] - kib["MemAvailable"]) * 1024,
        "swap_total_bytes": kib["SwapTotal"] * 1024,
        "swap_used_bytes": (kib["SwapTotal"] - kib["SwapFree"]) * 1024,
    }


def read_process_times(pid: int) -> tuple[float, float]:
    """Return the seconds that a process has spent in its own code and in the kernel; zeros if it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS
    except (OSError, IndexError):
        return 0.0, 0.0


def read_process_memory(pid: int) -> int:
    """Return the bytes of host memory that a process occupies; 0 if it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def describe_usage(before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, float]:
    """Return the percentage of time spent on each kind between two readings."""
    spent = [max(0, end - start) for start, end in zip(before, after, strict=True)]
    whole = sum(spent) or 1
    return {kind: round(100 * each / whole, 2) for kind, each in zip(_KINDS, spent, strict=True)}
