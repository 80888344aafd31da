"""What a server takes over time: memory, descriptors, threads, files; and whether that grows."""

import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarking.soaking.host import Host

# Growth over the measured span, in MB, above which it is taken for a leak: netty's pools grow by 16 MB at a time, and
# torch's allocator keeps what a large batch once took.
MOST_GROWTH_MB = {"server": 100.0, "worker": 40.0}
WARM_UP = 0.2  # of a process's samples, which do not count
_MB = 1_000_000
_SHORTEST = 30.0  # seconds of samples that a slope is drawn through
JUDGED = 180.0  # seconds of samples after which growth is a problem: a young process still fills its pools


@dataclass(frozen=True)
class Sample:
    """One process at one time."""

    at: float  # seconds since the soak's start
    rss: float  # MB
    descriptors: int
    threads: int


@dataclass
class Watch:
    """A thread that looks at the server's processes every few seconds."""

    host: Host
    clock: Callable[[], float]
    every: float = 5.0  # seconds
    samples: dict[str, list[Sample]] = field(default_factory=dict)  # "server", "cifar10 1.0, process 123"
    zombies: int = 0  # most seen at once
    log_bytes: int = 0  # most seen
    rotated: int = 0  # most rotated log files seen

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the look that is going on."""
        self._stopped.set()
        self._thread.join()

    def look(self) -> None:
        """Take one sample of each process."""
        now = self.clock()
        java = self.host.java()
        named = {java.pid: "server"} if java is not None else {}
        named.update({pid: f"{model}, process {pid}" for pid, model in self.host.all_worker_pids().items()})
        for pid, name in named.items():
            try:
                process = psutil.Process(pid)
                sample = Sample(now, process.memory_info().rss / _MB, process.num_fds(), process.num_threads())
                self.samples.setdefault(name, []).append(sample)
            except psutil.Error:
                continue  # killed meanwhile
        self.zombies = max(self.zombies, len(self.host.processes(zombies=True)))
        logs = [path for path in (self.host.disk / "logs").glob("*") if path.is_file()]
        self.log_bytes = max(self.log_bytes, sum(path.stat().st_size for path in logs))
        self.rotated = max(self.rotated, sum(path.suffix.strip(".").isdigit() for path in logs))

    def _run(self) -> None:
        while not self._stopped.wait(self.every):
            try:
                self.look()
            except (OSError, LookupError, ValueError):
                continue  # the server is changing under our eyes; the next look is in seconds


def fit_slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes between points a quarter of the series apart; 0 for fewer than two points.

    A library that is loaded at a worker's first explanation is one step up and no growth. A third of those pairs at
    most straddle a single step, so that the median does not see it, where a least-squares line does.
    """
    pairs = zip(points, points[max(1, len(points) // 4) :], strict=False)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]
    return statistics.median(slopes) if slopes else 0.0


def summarise(samples: Sequence[Sample]) -> dict[str, Any] | None:
    """Return what a process took after its warm-up and how that grew; None for one that did not live long enough."""
    kept = samples[int(len(samples) * WARM_UP) :]
    if not kept or kept[-1].at - kept[0].at < _SHORTEST:
        return None
    span = kept[-1].at - kept[0].at
    slope = fit_slope([(each.at, each.rss) for each in kept])
    return {
        "seconds": round(span),
        "rss_mb": [round(kept[0].rss, 1), round(kept[-1].rss, 1)],
        "rss_mb_most": round(max(each.rss for each in kept), 1),
        "growth_mb": round(slope * span, 1),
        "mb_per_hour": round(slope * 3600, 1),
        "descriptors": [kept[0].descriptors, kept[-1].descriptors, max(each.descriptors for each in kept)],
        "threads": [kept[0].threads, kept[-1].threads, max(each.threads for each in kept)],
    }


def summarise_all(samples: Mapping[str, Sequence[Sample]], longest: int = 6) -> dict[str, dict[str, Any]]:
    """Return the summary of the server and of the workers that lived longest."""
    found = {name: summary for name, each in samples.items() if (summary := summarise(each)) is not None}
    ordered = sorted(found, key=lambda name: (name != "server", -found[name]["seconds"]))
    return {name: found[name] for name in ordered[: longest + 1]}


def find_growth(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what grew more than it may: memory, descriptors, threads."""
    faults = []
    for name, each in summaries.items():
        most = MOST_GROWTH_MB["server" if name == "server" else "worker"]
        if each["seconds"] < JUDGED:
            continue
        if each["growth_mb"] > most:
            faults.append(f"{name}: memory grew by {each['growth_mb']} MB in {each['seconds']} s, at most {most:g}")
        for what, allowed in (("descriptors", 30), ("threads", 30)):
            first, last, _ = each[what]
            if last - first > allowed:
                faults.append(f"{name}: {what} grew from {first} to {last}, at most {allowed} more")
    return faults
