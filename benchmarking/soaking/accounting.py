"""Every request of a soak accounted for: what was sent, what came back, and which fault explains what did not."""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from handlers.comparing import find_difference

# What became of a request. The first three are as they should be, FAULT is explained by a fault, the rest are faults
# of the server.
RIGHT = "right"  # a good request, and the expected answer
REFUSED = "refused"  # a bad request, and its 4xx
ABANDONED = "abandoned"  # the client went away on purpose: no answer was due
FAULT = "failed in a fault"  # a 5xx while a worker was killed, removed or without a disk
WRONG = "wrong"  # any answer but the expected one
LOST = "lost"  # no answer at all
GOOD_ENDS = (RIGHT, REFUSED, ABANDONED)

GRACE = 1.0  # seconds after a fault's end in which an answer may still be its doing
EXPLAINING = ("kill", "scale down", "disk full")  # faults that may cost a request in hand its answer; the others never


@dataclass(frozen=True)
class Expectation:
    """What the answer to a request must be; ``body`` is compared where the status is 200."""

    statuses: tuple[int, ...] = (200,)
    body: Any = None  # list of JSON answers, each of which is right; None: any
    tolerance: float = 0.0  # of numbers, absolute
    only: tuple[str, ...] = ()  # keys of the body that are compared; none: all
    cut: bool = False  # the server may close the connection instead: a body over TorchServe's limit


@dataclass(frozen=True)
class Exchange:
    """One request as its client saw it."""

    kind: str  # of the request: "raw", "multipart", "empty"
    model: str
    began: float  # seconds since the soak's start
    ended: float
    status: int  # 0: no answer
    body: bytes = field(default=b"", repr=False)
    error: str = ""  # why there was no answer
    abandoned: bool = False  # the client went away on purpose


@dataclass(frozen=True)
class Fault:
    """Something that was done to the server."""

    kind: str  # "kill", "stop", "scale up", "scale down", "register", "remove", "roll", "disk full"
    model: str  # "" for all
    began: float  # seconds since the soak's start
    ended: float  # until the server is whole again; infinite while it lasts
    detail: str = ""


def judge(exchange: Exchange, expected: Expectation, faults: Iterable[Fault]) -> tuple[str, str]:
    """Return what became of a request, and for people why, "" where there is nothing to say."""
    if exchange.abandoned:
        return ABANDONED, ""
    if exchange.status == 0:
        return (REFUSED, "") if expected.cut else (LOST, exchange.error or "no answer")
    if exchange.status in expected.statuses:
        wrong = _find_fault_of_body(exchange, expected)
        return (WRONG, wrong) if wrong else (RIGHT if exchange.status == 200 else REFUSED, "")
    said = f"{exchange.status} {exchange.body[:200]!r}, expected {' or '.join(map(str, expected.statuses))}"
    cause = find_cause(exchange, faults) if exchange.status >= 500 else None
    return (FAULT, f"{cause.kind}: {said}") if cause is not None else (WRONG, said)


def find_cause(exchange: Exchange, faults: Iterable[Fault]) -> Fault | None:
    """Return the fault that was in flight while the request was, in its model; None if there was none."""
    for fault in faults:
        concerns = fault.kind in EXPLAINING and fault.model in ("", exchange.model)
        if concerns and exchange.ended >= fault.began and exchange.began <= fault.ended + GRACE:
            return fault
    return None


def _find_fault_of_body(exchange: Exchange, expected: Expectation) -> str:
    """Return how the body differs from the expected one, or "" where it does not or none is expected."""
    if exchange.status != 200 or expected.body is None:
        return ""
    try:
        found = json.loads(exchange.body)
    except ValueError:
        return f"200 with a body that is no JSON: {exchange.body[:100]!r}"
    if expected.only and isinstance(found, dict):
        found = {key: value for key, value in found.items() if key in expected.only}
    differences = [find_difference(each, found, expected.tolerance) for each in expected.body]
    return "" if "" in differences else f"200, {differences[0]}"


@dataclass(frozen=True)
class Account:
    """One judged request, without its body."""

    kind: str
    model: str
    began: float
    seconds: float
    end: str  # RIGHT, REFUSED ...
    phase: str  # the fault that was in flight, or "quiet"
    why: str = ""


class Ledger:
    """All requests and faults of a soak; for several threads."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.open: dict[int, Fault] = {}
        self._waiting: list[tuple[Exchange, Expectation]] = []
        self._counts: Counter[str] = Counter()
        self._said: list[str] = []
        self._lock = threading.Lock()

    def begin(self, fault: Fault) -> int:
        """Note a fault that is about to happen; return what ends it."""
        with self._lock:
            number = len(self.faults) + len(self.open)
            self.open[number] = fault
            return number

    def end(self, number: int, now: float, detail: str = "") -> Fault:
        """Note that the server is whole again."""
        with self._lock:
            begun = self.open.pop(number)
            fault = Fault(begun.kind, begun.model, begun.began, now, detail or begun.detail)
            self.faults.append(fault)
            return fault

    def add(self, exchange: Exchange, expected: Expectation) -> None:
        """Keep a request; it is judged at the end, when every fault is known with its duration."""
        with self._lock:
            self._waiting.append((exchange, expected))
            end, why = judge(exchange, expected, [*self.open.values(), *self.faults[-20:]])
            self._counts[end] += 1
            if end in (WRONG, LOST, FAULT):
                when = f"at {exchange.began:.1f} to {exchange.ended:.1f} s"
                self._said.append(f"{when}, {exchange.model}, {exchange.kind}: {end}: {why}")

    def counts(self) -> Counter[str]:
        """Return how many requests became what so far, for the progress."""
        with self._lock:
            return self._counts.copy()

    def news(self) -> list[str]:
        """Return what has gone wrong since the last call, for the progress."""
        with self._lock:
            said, self._said = self._said, []
            return said

    def settle(self) -> list[Account]:
        """Return all requests, judged."""
        with self._lock:
            faults = [*self.faults, *self.open.values()]
            return [_account(exchange, expected, faults) for exchange, expected in self._waiting]


def _account(exchange: Exchange, expected: Expectation, faults: Sequence[Fault]) -> Account:
    end, why = judge(exchange, expected, faults)
    phase = next(
        (each.kind for each in faults if each.began <= exchange.ended and exchange.began <= each.ended + GRACE), "quiet"
    )
    seconds = exchange.ended - exchange.began
    return Account(exchange.kind, exchange.model, exchange.began, seconds, end, phase, why)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 90th, 99th percentile and maximum in milliseconds (nearest rank); empty for no values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    picked = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in _SHARES.items()}
    return {name: round(value * 1000, 1) for name, value in picked.items()}


_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def tabulate(accounts: Sequence[Account]) -> dict[str, Any]:
    """Return counts by end, by kind and by phase, latencies by phase, and the accounts of what went wrong."""
    by_kind: dict[str, Counter[str]] = {}
    phases: dict[str, list[float]] = {}
    for each in accounts:
        by_kind.setdefault(each.kind, Counter())[each.end] += 1
        if each.end == RIGHT and each.kind not in SLOW_KINDS:
            phases.setdefault(each.phase, []).append(each.seconds)
    return {
        "requests": len(accounts),
        "ends": dict(Counter(each.end for each in accounts)),
        "kinds": {kind: dict(counts) for kind, counts in sorted(by_kind.items())},
        "latency_ms": {phase: {"requests": len(s), **quantiles(s)} for phase, s in sorted(phases.items())},
        "bad": [asdict(each) for each in accounts if each.end in (WRONG, LOST)][:100],
        "failed": [asdict(each) for each in accounts if each.end == FAULT][:200],
    }


# Their time is the client's own, or a thousand runs of the model: they would hide the latencies of the others.
SLOW_KINDS = ("slow sender", "slow reader", "explanation")
