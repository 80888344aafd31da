"""What happens to the server of a soak, on a schedule with a seed: each fault is done, undone and looked at."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarking.soaking.accounting import Fault, Ledger
from benchmarking.soaking.clients import Routes
from benchmarking.soaking.host import CONTINUE, KILL, STOP, Host
from benchmarking.soaking.traffic import Known

PATIENCE = 90.0  # seconds until the server must be whole again
QUIET = 2.0  # seconds that the queue of an old version must have been empty before it is removed


class SoakFault(Exception):
    """The server did not do what an operator asked of it, or did not recover."""


@dataclass
class Operator:
    """Does what goes wrong, and what operators do; keeps count of what must be there."""

    host: Host
    routes: Routes
    ledger: Ledger
    clock: Callable[[], float]
    chance: random.Random
    steady: list[str]  # models that stay
    versions: dict[str, list[Known]]  # of the model "rolled", by version
    visitor: list[Known]  # the model that comes and goes
    version: str = "1.0"  # of "rolled", now
    problems: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def kinds(self) -> list[tuple[str, Callable[[], None]]]:
        """Return every fault by its name."""
        return [
            ("kill", self.kill),
            ("stop", self.pause),
            ("visit", self.visit),
            ("roll", self.roll),
            ("scale", self.scale),
            ("disk full", self.fill_disk),
        ]

    def run(self, name: str, act: Callable[[], None]) -> None:
        """Do one fault; keep what went wrong, and go on."""
        try:
            act()
            self.done[name] = self.done.get(name, 0) + 1
        except SoakFault as exc:
            self.problems.append(f"at {self.clock():.0f} s, {name}: {exc}")

    def kill(self) -> None:
        """Kill a worker; it must come back with a core. The oldest worker of each model is spared, to be measured."""
        model = self.chance.choice(self.steady)
        pids = self.host.worker_pids(model)
        victim = self.chance.choice(pids[1:] or pids)
        with self._fault("kill", model, f"worker {victim}"):
            os.kill(victim, KILL)
            self._wait(lambda: self._is_back(model, victim, len(pids)), f"the killed worker of {model} to come back")

    def pause(self) -> None:
        """Stop a worker for some seconds, as a host without memory does; nothing may be lost."""
        model = self.chance.choice(self.steady)
        victim = self.chance.choice(self.host.worker_pids(model))
        with self._fault("stop", model, f"worker {victim}"):
            os.kill(victim, STOP)
            time.sleep(self.chance.uniform(2, 6))
            os.kill(victim, CONTINUE)

    def scale(self) -> None:
        """Give a model a worker more for a while."""
        model = self.chance.choice(self.steady)
        before = len(self.host.worker_pids(model))
        with self._fault("scale up", model):
            self._scale(model, before + 1)
        time.sleep(self.chance.uniform(2, 5))
        with self._fault("scale down", model):
            self._scale(model, before)

    def visit(self) -> None:
        """Register a model, let it serve, scale it, withdraw it, and remove it when nothing is on its way to it."""
        name = self.visitor[0].model
        with self._fault("register", name):
            self._do("POST", "/models", url=f"{name}.mar", model_name=name, initial_workers=1, synchronous="true")
        self.routes.put(self.visitor)
        time.sleep(self.chance.uniform(3, 6))
        with self._fault("scale up", name):
            self._scale(name, 2)
        time.sleep(self.chance.uniform(3, 6))
        withdrawn = self.routes.withdraw(name)
        self._wait(lambda: self.routes.flying(name, withdrawn) == 0, f"requests to {name} to be answered")
        with self._fault("remove", name):
            self._drain(name, "1.0")
            self._do("DELETE", f"/models/{name}/1.0")

    def roll(self) -> None:
        """Replace a version without losing a request: register, make default, wait for the old queue, remove."""
        old = self.version
        new = next(version for version in self.versions if version != old)
        name = self.versions[new][0].model
        with self._fault("roll", name, f"{old} to {new}"):
            archive = f"{name}-{new}.mar"
            self._do("POST", "/models", url=archive, model_name=name, initial_workers=1, synchronous="true")
            either = self.routes.put(_merge(self.versions[old], self.versions[new]))
            self._wait(lambda: self.routes.flying(name, either) == 0, "earlier requests to be answered")
            self._do("PUT", f"/models/{name}/{new}/set-default")
            self.routes.put(self.versions[new])
            self.version = new
            self._drain(name, old)
            self._do("DELETE", f"/models/{name}/{old}")

    def fill_disk(self) -> None:
        """Fill the server's disk for some seconds: its logs and uploads find no room."""
        with self._fault("disk full", ""), _filled(self.host):
            time.sleep(self.chance.uniform(4, 8))

    def check_leases(self) -> None:
        """Keep it as a problem unless every ready worker holds a core, and every core has one owner that lives."""
        fault = "the server did not answer"
        for _ in range(20):
            workers, holders = self.host.all_worker_pids(), self.host.holders()
            places = [(each.kind, each.core, each.place) for each in holders]
            pids = {each.pid for each in holders}
            if workers and pids == set(workers) and len(set(places)) == len(places) and all(map(_lives, pids)):
                return
            fault = f"workers {sorted(workers)}, owners {[(each.core, each.place, each.pid) for each in holders]}"
            time.sleep(0.5)
        self.problems.append(f"at {self.clock():.0f} s, leases: {fault}")

    @contextmanager
    def _fault(self, kind: str, model: str, detail: str = "") -> Iterator[None]:
        number = self.ledger.begin(Fault(kind, model, self.clock(), float("inf"), detail))
        try:
            yield
        finally:
            self.ledger.end(number, self.clock())

    def _is_back(self, model: str, victim: int, count: int) -> bool:
        pids = self.host.worker_pids(model)
        return len(pids) == count and victim not in pids

    def _scale(self, model: str, workers: int) -> None:
        self._do("PUT", f"/models/{model}", min_worker=workers, max_worker=workers, synchronous="true")
        self._wait(lambda: len(self.host.worker_pids(model)) == workers, f"{model} to have {workers} workers")

    def _drain(self, model: str, version: str) -> None:
        """Wait until a version's queue has been empty for a while: what is queued when it is removed hangs for ever."""
        empty_since = [0.0]

        def is_drained() -> bool:
            waiting = self.host.describe(model, version).get("jobQueueStatus", {}).get("pendingRequests", 1)
            empty_since[0] = (empty_since[0] or time.monotonic()) if waiting == 0 else 0.0
            return bool(empty_since[0]) and time.monotonic() - empty_since[0] > QUIET

        self._wait(is_drained, f"the queue of {model} {version} to be empty")

    def _do(self, method: str, path: str, **query: Any) -> None:
        status, said = self.host.ask(method, path, **query)
        if status not in (200, 202):
            raise SoakFault(f"{method} {path} {query or ''}: {status} {said}, expected 200")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise SoakFault(f"waited {PATIENCE:.0f} s in vain for {what}")
            time.sleep(0.1)


def schedule(operator: Operator, *, until: float, pause: float, chance: random.Random) -> Iterator[str]:
    """Do faults in shuffled rounds, one after the other, until the clock says ``until``; yield the name of each."""
    while True:
        kinds = operator.kinds()
        chance.shuffle(kinds)
        for name, act in kinds:
            time.sleep(min(chance.uniform(0.5, 1.5) * pause, max(0.0, until - operator.clock())))
            if operator.clock() >= until:
                return
            operator.run(name, act)
            operator.check_leases()
            yield name


def _merge(old: list[Known], new: list[Known]) -> list[Known]:
    both = zip(old, new, strict=True)
    return [Known(a.model, a.body, a.answers + b.answers, max(a.tolerance, b.tolerance)) for a, b in both]


@contextmanager
def _filled(host: Host) -> Iterator[None]:
    """Leave the server no room: on its own disk a file takes all; else its files may not grow."""
    if not host.own_disk:
        java = host.java()
        if java is None:
            raise SoakFault("the server's JVM is not there")
        soft, hard = java.rlimit(psutil.RLIMIT_FSIZE)
        java.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            java.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
        return
    ballast = host.disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue
        yield
    finally:
        ballast.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
