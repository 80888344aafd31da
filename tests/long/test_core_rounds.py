"""A thousand rounds of workers that come and go over eight cores: never two owners, never a lost core.

The same rounds run against the emulated runtime's ownership and against the kit's own leases.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 1000
CORES = 8
AHEAD = 3  # workers that are started and wait, so that the start of Python costs no time

# A worker waits for a line with what it is to take, says what it got, and keeps it until its input ends. "fork" makes
# a child that lives on when the worker is killed; the alarm ends it should the test die.
WORKER = """
import os, signal, sys
{take}
def wait():
    signal.alarm(600)
    while True:
        signal.pause()
count, fork = sys.stdin.readline().split()
cores = take(count)
reader, writer = os.pipe()
child = os.fork() if cores and fork == "fork" else -1
if child == 0:
    os.write(writer, b"1")
    os.closerange(0, 3)  # else its parent's pipes stay open
    wait()
if child > 0:
    os.read(reader, 1)
print(child, *cores, flush=True)
sys.stdin.read()
"""

TAKE_RUNTIME = """
from neuron_emulator.runtime import get_runtime
def take(count):
    variable = "NEURON_RT_VISIBLE_CORES" if "-" in count else "NEURON_RT_NUM_CORES"
    os.environ[variable] = count
    try:
        return get_runtime().cores
    except RuntimeError:
        return ()
"""

TAKE_LEASE = f"""
from handlers.cores import NoCores, take_lease
def take(count):
    global lease
    try:
        lease = take_lease("inf1", int(count), host_cores=range({CORES}), places=1, label="rounds 1.0")
        return lease.cores
    except NoCores:
        return ()
"""


@dataclass(frozen=True)
class Kind:
    """Something that gives out cores: its worker, and what it can be asked for."""

    take: str  # the worker's function
    environ: dict[str, str]
    aligned: bool  # ranges start at a multiple of their size

    def can_have(self, count: str, free: set[int]) -> bool:
        """Return whether a request fits into the free cores."""
        if "-" in count:
            first, last = map(int, count.split("-"))
            return set(range(first, last + 1)) <= free
        size = int(count)
        step = size if self.aligned else 1
        return any(set(range(start, start + size)) <= free for start in range(0, CORES - size + 1, step))

    def pick_count(self, chance: random.Random) -> str:
        """Return a number of cores, or a range of them for the runtime."""
        size = chance.choice([1, 1, 1, 2, 2, 3, 4])
        if self.aligned or chance.random() < 0.6:
            return str(size)
        first = chance.randrange(CORES - size + 1)
        return f"{first}-{first + size - 1}"


class Worker:
    """A process that takes cores when told to."""

    def __init__(self, kind: Kind) -> None:
        script = WORKER.format(take=kind.take)
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", script],
            env={**os.environ, **kind.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.cores: set[int] = set()
        self.child = -1

    def ask(self, count: str, *, fork: bool) -> None:
        """Tell it what to take."""
        self.process.stdin.write(f"{count} {'fork' if fork else 'plain'}\n")
        self.process.stdin.flush()

    def answer(self) -> set[int]:
        """Return what it got, nothing if it was refused."""
        child, *cores = self.process.stdout.readline().split()
        self.child, self.cores = int(child), {int(core) for core in cores}
        return self.cores

    def end(self, how: str) -> None:
        """End it: "killed" with kill -9, "stopped" in good order, "paused" and then killed."""
        if how == "paused":
            self.process.send_signal(signal.SIGSTOP)
        if how in ("killed", "paused"):
            self.process.kill()
        self.process.communicate()

    def end_child(self) -> None:
        """Kill the child that it forked, if any."""
        if self.child > 0:
            os.kill(self.child, signal.SIGKILL)
            self.child = -1


class Rounds:
    """The rounds over one kind of cores, and what has to be true after each."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.chance = random.Random(20)
        self.ahead: deque[Worker] = deque()
        self.owners: list[Worker] = []
        self.seen: Counter[str] = Counter()

    def run_round(self) -> None:
        """Let one or two workers ask at once, check what they got, then end some of those that own cores."""
        asked = [(self._next(), self.kind.pick_count(self.chance)) for _ in range(self.chance.choice([1, 1, 2]))]
        for worker, count in asked:
            worker.ask(count, fork=self.chance.random() < 0.3)
        for worker, _ in asked:
            got = worker.answer()
            assert not got & self.owned(), f"two owners of {sorted(got & self.owned())}"
            (self.owners.append if got else lambda each: each.end("stopped"))(worker)
        for worker, count in asked:
            self.seen["granted" if worker.cores else "refused"] += 1
            # Cores are only taken meanwhile: what is free now was free when it asked.
            assert worker.cores or not self.kind.can_have(count, self.free()), (
                f"{count} refused, {self.free()} are free"
            )
        for worker in self.chance.sample(self.owners, k=min(len(self.owners), self.chance.choice([0, 1, 1, 2]))):
            self._end(worker)

    def owned(self) -> set[int]:
        """Return the cores that living workers own."""
        return {core for worker in self.owners for core in worker.cores}

    def free(self) -> set[int]:
        """Return the cores that nobody owns."""
        return set(range(CORES)) - self.owned()

    def take_all(self) -> set[int]:
        """End every owner; return what one worker gets that asks for every core."""
        for worker in list(self.owners):
            self._end(worker)
        last = self._next()
        last.ask(str(CORES), fork=False)
        self.owners.append(last)
        return last.answer()

    def close(self) -> None:
        """End every process."""
        for worker in [*self.owners, *self.ahead]:
            worker.end("killed")
            worker.end_child()

    def _end(self, worker: Worker) -> None:
        how = self.chance.choice(["killed", "stopped", "paused"])
        self.owners.remove(worker)
        worker.end(how)
        self.seen[how if worker.child < 0 else f"{how}, a forked child lives on"] += 1
        if worker.child > 0:
            self._ask_again(worker.cores)
        worker.end_child()

    def _ask_again(self, cores: set[int]) -> None:
        """Take the cores of a dead worker whose child lives, at once."""
        heir = self._next()
        heir.ask(str(len(cores)), fork=False)
        got = heir.answer()
        assert got, f"the cores {sorted(cores)} of a dead worker are held by its child"
        assert not got & self.owned(), f"two owners of {sorted(got & self.owned())}"
        heir.end("killed")

    def _next(self) -> Worker:
        while len(self.ahead) <= AHEAD:
            self.ahead.append(Worker(self.kind))
        return self.ahead.popleft()


@pytest.fixture
def rest_of_host(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An emulated host of 16 cores, 8 of which another process owns throughout."""
    environ = {
        "PYTHONPATH": str(ROOT / "emulator"),
        "NEURON_EMULATOR_FOLDER": str(tmp_path / "host"),
        "NEURON_EMULATOR_INSTANCE": "inf1.6xlarge",
    }
    other = Worker(Kind(TAKE_RUNTIME, environ, aligned=False))
    other.ask(f"{CORES}-{2 * CORES - 1}", fork=False)
    assert other.answer() == set(range(CORES, 2 * CORES))
    yield environ
    assert other.process.poll() is None
    other.end("stopped")


def test_the_runtime_loses_no_core_and_gives_none_twice(rest_of_host: dict[str, str]) -> None:
    """Contract 4.2.2, 4.7: a core belongs to one process until that ends, however it ends, forked or not."""
    run_rounds(Kind(TAKE_RUNTIME, rest_of_host, aligned=False))


def test_leases_are_neither_lost_nor_given_twice(tmp_path: Path) -> None:
    """What the kit leases to its workers holds under the same rounds."""
    environ = {"PYTHONPATH": str(ROOT), "TORCHSERVE_NEURON_LEASES": str(tmp_path / "leases")}
    run_rounds(Kind(TAKE_LEASE, environ, aligned=True))


def run_rounds(kind: Kind) -> None:
    """Run all rounds; at the end one worker gets all the cores."""
    rounds = Rounds(kind)
    try:
        for _ in range(ROUNDS):
            rounds.run_round()
        print(dict(sorted(rounds.seen.items())), flush=True)
        assert rounds.take_all() == set(range(CORES))
        assert min(rounds.seen.values()) > 20
    finally:
        rounds.close()
