"""One soak from the archives to the report."""

import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from benchmarking.soaking import measuring, reporting, traffic
from benchmarking.soaking.accounting import FAULT, LOST, RIGHT, WRONG, Account, Exchange, Fault, Ledger, judge, tabulate
from benchmarking.soaking.archives import Archives
from benchmarking.soaking.clients import Address, Client, Crowd, Routes
from benchmarking.soaking.faults import Operator, schedule
from benchmarking.soaking.host import Host, run_host, stop
from benchmarking.soaking.traffic import Request

_FIRST_QUIET = 10.0  # seconds of traffic before the first fault


@dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """What the caller may choose."""

    minutes: float = 20.0
    rate: float = 15.0  # requests a second, all clients together
    clients: int = 12
    pause: float = 6.0  # seconds between two faults, on average
    seed: int = 0
    target: str = "cpu"
    instance: str = ""  # emulated


class Soak:
    """The parts of one run, and what they share: the clock, the ledger, the learned answers."""

    def __init__(self, settings: SoakSettings, archives: Archives, progress: Callable[[str], None]) -> None:
        self.settings, self.archives, self.progress = settings, archives, progress
        self.ledger, self.routes = Ledger(), Routes()
        self._began = time.monotonic()
        self._learned: dict[tuple[str, str, bytes], Any] = {}

    def clock(self) -> float:
        """Return the seconds since the soak's start."""
        return time.monotonic() - self._began

    def run(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """Return the report; the server is gone afterwards, also after an interrupt."""
        archives = self.archives
        loaded = {name: archives.files[name] for name in archives.steady}
        loaded["rolled"] = archives.files["rolled-1.0"]
        with run_host(list(archives.files.values()), loaded, environment) as host:
            self.progress(f"TorchServe runs (process {host.process.pid}, port {host.inference})")
            return self._run_on(host)

    def _run_on(self, host: Host) -> dict[str, Any]:
        known = self.archives.known
        self._learn(host)
        self._began = time.monotonic()
        for name in self.archives.steady:
            self.routes.put(known[name])
        self.routes.put(known["rolled-1.0"])
        versions = {"1.0": known["rolled-1.0"], "2.0": known["rolled-2.0"]}
        chance = random.Random(self.settings.seed)  # noqa: S311  a schedule that can be repeated, no secret
        operator = Operator(
            host, self.routes, self.ledger, self.clock, chance, list(self.archives.steady), versions, known["visitor"]
        )
        watch = measuring.Watch(host, self.clock)
        crowd = Crowd(
            Address(host.inference),
            self.routes,
            self.ledger,
            self._prepare,
            clock=self.clock,
            clients=self.settings.clients,
            rate=self.settings.rate,
            seed=self.settings.seed,
        )
        watch.start()
        crowd.start()
        try:
            self._let_happen(operator, chance)
        finally:
            crowd.stop()
            watch.stop()
        return self._finish(host, operator, watch)

    def _let_happen(self, operator: Operator, chance: random.Random) -> None:
        seconds = self.settings.minutes * 60
        time.sleep(min(_FIRST_QUIET, seconds / 4))
        for name in schedule(operator, until=seconds, pause=self.settings.pause, chance=chance):
            for each in self.ledger.news():
                self.progress(each)
            self.progress(reporting.show_progress(self.clock(), seconds, self.ledger.counts(), name))

    def _learn(self, host: Host) -> None:
        """Ask for the answers that no archive holds, twice each: they must be the same both times."""
        client = Client(Address(host.inference), self.clock)
        for name in self.archives.steady:
            for known in self.archives.known[name]:
                for make in traffic.LEARNED:
                    request = make(known)
                    first, second = self._ask(client, request), self._ask(client, request)
                    expected = replace(request.expected, body=[first.answer(request)])
                    end, why = judge(second.exchange, expected, [])
                    if end != RIGHT:
                        raise RuntimeError(f"{request.kind} of {name} is answered in two ways: {why}")
                    self._learned[request.kind, request.model, request.body] = [first.answer(request)]
        client.close()

    @staticmethod
    def _ask(client: Client, request: Request) -> "_Answer":
        exchange = client.send(request)
        if exchange.status != 200:
            raise RuntimeError(f"{request.kind} of {request.model}: {exchange.status} {exchange.body[:300]!r}")
        return _Answer(exchange)

    def _prepare(self, request: Request) -> Request:
        """Return the request with the answer that was learned; a plain one where none could be."""
        if request.expected.body is not None or request.expected.statuses != (200,):
            return request
        answers = self._learned.get((request.kind, request.model, request.body))
        if answers is None:  # of a model that comes and goes: only that it is answered is known
            return request
        return replace(request, expected=replace(request.expected, body=answers))

    def _finish(self, host: Host, operator: Operator, watch: measuring.Watch) -> dict[str, Any]:
        ended = self.clock()
        operator.check_leases()
        problems = list(operator.problems) + self._find_final_faults(host)
        left = _look_at_rest(host, watch, operator)
        processes = stop(host)
        left["processes after the stop"] = len(processes)
        return self._report(problems, left, watch, ended)

    def _find_final_faults(self, host: Host) -> list[str]:
        """Ask every model once more, now that all is quiet."""
        client = Client(Address(host.inference), self.clock)
        faults = []
        for name in self.archives.steady:
            for known in self.archives.known[name]:
                request = traffic.raw(known)
                end, why = judge(client.send(request), request.expected, [])
                faults += [f"at the end, {name}: {end}: {why}"] if end != RIGHT else []
        client.close()
        return faults

    def _report(
        self, problems: list[str], left: dict[str, Any], watch: measuring.Watch, ended: float
    ) -> dict[str, Any]:
        accounts = self.ledger.settle()
        table = tabulate(accounts)
        processes = measuring.summarise_all(watch.samples)
        wrong, lost = (table["ends"].get(end, 0) for end in (WRONG, LOST))
        problems += [f"{count} requests {end}" for count, end in ((wrong, WRONG), (lost, LOST)) if count]
        problems += measuring.find_growth(processes) + _find_leftovers(left)
        return {
            "date": time.strftime("%Y-%m-%d"),
            "machine": self._describe(),
            "settings": vars(self.settings),
            "seconds": round(ended, 1),
            "verdict": "passed: none wrong, none lost" if not problems else f"FAILED: {len(problems)} problem(s)",
            "problems": problems,
            "table": table,
            "faults": _tabulate_faults(self.ledger.faults, accounts),
            "processes": processes,
            "left": left,
        }

    def _describe(self) -> str:
        settings = self.settings
        chip = f"{settings.target}, EMULATED ({settings.instance})" if settings.instance else settings.target
        return (
            f"{settings.minutes:g} minutes on {chip}, models {', '.join(self.archives.steady)} and one that is rolled; "
            f"{settings.clients} clients, at most {settings.rate:g} requests a second, seed {settings.seed}. Machine: "
            f"{psutil.cpu_count()} processors ({platform.machine()}), load {psutil.getloadavg()[2]:.1f} over the last "
            f"15 minutes; Python {platform.python_version()}."
        )


@dataclass(frozen=True)
class _Answer:
    exchange: Exchange

    def answer(self, request: Request) -> Any:
        content = json.loads(self.exchange.body)
        only = request.expected.only or tuple(content)
        return {key: value for key, value in content.items() if key in only}


def _look_at_rest(host: Host, watch: measuring.Watch, operator: Operator) -> dict[str, Any]:
    temporary = host.disk / "t"
    unpacked = [path for path in (temporary / "models").glob("*") if path.is_dir() and not path.is_symlink()]
    java = host.java()
    return {
        "workers ready, cores leased": f"{len(host.all_worker_pids())}, {len(host.holders())}",
        "versions registered, unpacked folders": f"{len(host.models())}, {len(unpacked)}",
        "other temporary files": sum(path.name != "models" and not path.is_socket() for path in temporary.iterdir()),
        "sockets of workers": sum(path.is_socket() for path in temporary.iterdir()),
        "zombies, most seen": watch.zombies,
        "log bytes, most": f"{watch.log_bytes:,}, {watch.rotated} rotated files",
        "JVM alive to the end": java is not None,
        "own disk": "a tmpfs, filled" if host.own_disk else "none (no root): the JVM's files could not grow instead",
    }


def _find_leftovers(left: Mapping[str, Any]) -> list[str]:
    faults = []
    for what in ("workers ready, cores leased", "versions registered, unpacked folders"):
        first, second = str(left[what]).split(", ")
        faults += [f"{what}: {first} and {second}, expected as many"] if first != second else []
    if left["processes after the stop"]:
        faults.append(f"{left['processes after the stop']} processes outlived the server")
    return faults if left["JVM alive to the end"] else [*faults, "the JVM died"]


def _tabulate_faults(faults: Sequence[Fault], accounts: Sequence[Account]) -> dict[str, dict[str, Any]]:
    table = {}
    for kind in sorted({each.kind for each in faults}):
        seconds = [each.ended - each.began for each in faults if each.kind == kind]
        failed = sum(each.end == FAULT and each.why.startswith(f"{kind}:") for each in accounts)
        table[kind] = {
            "times": len(seconds),
            "median": statistics.median(seconds),
            "longest": max(seconds),
            "failed": failed,
        }
    return table


def say(text: str) -> None:
    """Print a line of progress, apart from results."""
    print(text, file=sys.stderr, flush=True)
