"""What a benchmark has measured, and the figures that follow from it: ratios, and what a server adds to its model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from benchmarking.figures import Interval, interval, ratio
from benchmarking.limit import Limit
from benchmarking.measuring import Sample
from benchmarking.prices import Price

KIT = "kit"
OWN_GENERATOR = "benchmarking/load.py"
OPEN_SHARE = 0.7  # of the highest rate of a closed loop, at which the tail of latencies is looked at
Kind = Literal["rate", "processor", "latency", "tail", "memory"]


@dataclass(frozen=True)
class Ratio(Interval):
    """A figure that has no unit, and so holds on another machine too; ``kind`` says how it is to be judged."""

    kind: Kind = "rate"


@dataclass
class Outcome:
    """All that was measured."""

    model: str
    version: str
    target: str
    emulated: bool
    machine: str
    day: str  # ISO 8601
    price: Price | None
    samples: list[Sample] = field(default_factory=list)
    open_samples: list[Sample] = field(default_factory=list)  # of open loops
    limits: list[Limit] = field(default_factory=list)
    start_seconds: dict[str, list[float]] = field(default_factory=dict)  # by system: launch to first right answer
    warm_up_runs: dict[str, list[int]] = field(default_factory=dict)  # by system: until its rate was steady
    peak_mb: dict[str, list[float]] = field(default_factory=dict)  # by system: highest resident size of a worker so far
    bare_mb: list[float] = field(default_factory=list)  # the same of torch with the model and nothing else, see bare.py
    generator: str = OWN_GENERATOR  # of the closed loops' load
    batch_size: int = 0  # most requests in a batch of the kit's server; 0 where it is not known
    rounds: int = 0  # turns that each system had
    seconds: float = 0.0  # of each run of load
    cut_short: str = ""  # what ended the run in a later round; the figures are of the rounds before it

    def systems(self) -> list[str]:
        """Return the systems in the order in which they were measured."""
        return list(dict.fromkeys(sample.system for sample in self.samples))

    def concurrencies(self) -> list[int]:
        """Return the numbers of requests at a time of the closed loops, in the order in which they were measured."""
        return list(dict.fromkeys(sample.concurrency for sample in self.samples))

    def group(self, system: str, concurrency: int) -> list[Sample]:
        """Return the closed loops of a system, one for each round."""
        return [each for each in self.samples if (each.system, each.concurrency) == (system, concurrency)]

    def rates(self, system: str, concurrency: int) -> list[float]:
        """Return the rates of a system's rounds."""
        return [each.rate for each in self.group(system, concurrency)]

    def ratios(self) -> dict[str, Ratio]:
        """Return the figures that hold on another machine too: the kit over what it is compared with."""
        found: dict[str, Ratio] = {}
        for concurrency in self.concurrencies():
            found |= self._ratios_at(concurrency)
        alone = [each.alone_seconds * 1e3 for each in self.limits]
        if alone and self.group(KIT, 1):
            latencies = [each.latency_ms["50"] for each in self.group(KIT, 1)]
            found["p50 over the time without a server, 1 at a time"] = _of("latency", ratio(latencies, alone))
        opened = [each.latency_ms for each in self.open_samples if each.system == KIT]
        if opened:
            tails = ratio([each["99"] for each in opened], [each["50"] for each in opened])
            found[f"p99 over p50 at {OPEN_SHARE:.0%} of the highest rate"] = _of("tail", tails)
        if self.bare_mb and KIT in self.peak_mb:
            found["peak memory of a worker over torch and the model alone"] = _of("memory", self.memory_share())
        return found

    def _ratios_at(self, concurrency: int) -> dict[str, Ratio]:
        found: dict[str, Ratio] = {}
        mine = self.rates(KIT, concurrency)
        for peer, words in (("stock", "stock"), ("triton", "Triton")):
            others = [self.rates(system, concurrency) for system in self.systems() if system.startswith(peer)]
            better = [max(each) for each in zip(*others, strict=True)]
            if better:
                name = f"rate over the better {words} server, {concurrency} at a time"
                found[name] = _of("rate", ratio(mine, better))
        if self.limits and concurrency > 1:
            limits = [each.rate for each in self.limits]
            found[f"rate over no server at all, {concurrency} at a time"] = _of("rate", ratio(mine, limits))
        if self.limits:
            added = self._extra_processor_ms(concurrency)
            whole = [each.processes / each.rate * 1e3 if each.rate else 0.0 for each in self.limits]
            name = f"processor time beyond the model over all of it without a server, {concurrency} at a time"
            found[name] = _of("processor", ratio(added, whole))
        return found

    def extra_processor_ms(self, concurrency: int) -> Interval:
        """Return the milliseconds of processor time of a right answer that are not the model's: JVM, worker, kernel.

        What the JVM and the workers spend, less what the model alone takes for a request of a full batch
        (``Limit.model_seconds`` of the same round). Batches that are not full, as at one request at a time, cost the
        model more for each request: that is charged to the server, whose task it is to fill them.
        """
        return interval(self._extra_processor_ms(concurrency))

    def _extra_processor_ms(self, concurrency: int) -> list[float]:
        pairs = zip(self.group(KIT, concurrency), self.limits, strict=True)
        return [each.server_ms + each.worker_ms - limit.model_seconds * 1e3 for each, limit in pairs]

    def extra_latency_ms(self) -> Interval:
        """Return the milliseconds that a lone client's median answer takes beyond the same work without a server.

        p50 of the closed loop at one request at a time, less ``Limit.alone_seconds`` of the same round.
        """
        pairs = zip(self.group(KIT, 1), self.limits, strict=True)
        return interval([each.latency_ms["50"] - limit.alone_seconds * 1e3 for each, limit in pairs])

    def memory_share(self) -> Interval:
        """Return the highest resident size of the kit's largest worker, over that of torch with the model alone."""
        return ratio(self.peak_mb.get(KIT, []), self.bare_mb)

    def fill(self, concurrency: int) -> Interval:
        """Return the mean number of requests in a batch of the kit's server."""
        return interval([each.batch for each in self.group(KIT, concurrency)])

    def faults(self) -> dict[str, list[str]]:
        """Return for each system what of its answers was no right answer, in words; {} if all were right."""
        found: dict[str, list[str]] = {}
        for name, samples in (("", self.samples), (" in an open loop", self.open_samples)):
            for system, concurrency in dict.fromkeys((each.system, each.concurrency) for each in samples):
                group = [each for each in samples if (each.system, each.concurrency) == (system, concurrency)]
                words = _describe_faults(group)
                if words:
                    found.setdefault(system, []).append(f"{concurrency} at a time{name}: {words}")
        return found

    def wrong(self, system: str = KIT) -> int:
        """Return how many answers of a system were not the golden ones, of all its runs."""
        return sum(each.wrong for each in [*self.samples, *self.open_samples] if each.system == system)

    def refused(self, system: str = KIT) -> int:
        """Return how many requests of a system's closed loops had no answer of status 200."""
        return sum(sum(each.errors.values()) for each in self.samples if each.system == system)


def _of(kind: Kind, found: Interval) -> Ratio:
    return Ratio(**asdict(found), kind=kind)


def _describe_faults(group: Sequence[Sample]) -> str:
    counts: dict[str, int] = {}
    for each in group:
        _add(counts, each.errors, lambda status: f"status {status}" if status.isdigit() else status)
    wrong = sum(each.wrong for each in group)
    words = [f"{wrong:,} wrong answers"] if wrong else []
    words += [f"{count:,} of {name}" for name, count in counts.items() if count]
    if not any(each.rate for each in group):
        words.append("no right answer at all")
    return ", ".join(words)


def _add(counts: dict[str, int], errors: Mapping[str, int], name: Callable[[str], str]) -> None:
    for status, count in errors.items():
        counts[name(status)] = counts.get(name(status), 0) + count
