"""How much of this machine the current process may use."""

from pathlib import Path

from handlers import cores

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def count_processors() -> int:
    """Return how many processors this process may use, within its container's quota."""
    cpus, quota = len(cores.host_cpus()), read_cpu_quota(_CPU_MAX)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def read_cpu_quota(file: Path = _CPU_MAX) -> float | None:
    """Return how many processors a cgroup (version 2) may use, or None if it may use all."""
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
