"""Workers that are killed under load, one after the other."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import requests

from tests import servers
from tests.long.conftest import Shipped
from tests.servers import Server, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
KILLS = 30
WORKERS = 2
CLIENTS = 16


class Load:
    """Clients that send good requests without a pause, and count how they are answered."""

    def __init__(self, server: Server, shipped: Shipped) -> None:
        self.server = server
        self.shipped = shipped
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def snapshot(self) -> Counter[str]:
        """Return the counts so far."""
        with self._lock:
            return self.counts.copy()

    def _send(self, number: int) -> None:
        while not self._stopped.is_set():
            number += 1
            body, expected = self.shipped.good[number % len(self.shipped.good)]
            try:
                answer = self.server.predict(body, timeout=60)
                kind = "failed" if answer.status_code >= 500 else f"{answer.status_code}: {answer.text}"
                if answer.status_code == 200:
                    kind = self.shipped.fault_of(answer.json(), expected) or "right"
            except requests.RequestException as exc:
                kind = repr(exc)[:200]
            with self._lock:
                self.counts[kind] += 1


def test_killed_workers_come_back_and_lose_nothing(shipped: Shipped, plain_python: Path, tmp_path: Path) -> None:
    """kill -9 of each worker in turn: the others go on, it comes back with its core, and no answer is wrong.

    Only requests that the killed worker had in hand may fail: at most a batch for each kill.
    """
    batch = max(module.batch for module in shipped.record.variants[0].modules)
    with servers.run_server(
        shipped.archive, tmp_path / "s", probe=shipped.probe, python=plain_python, workers=WORKERS
    ) as server:
        places = leased_places(server)
        with Load(server, shipped) as load:
            for number in range(KILLS):
                before = load.snapshot()
                seconds, meanwhile = kill_one(server, load, number)
                failed = load.snapshot()["failed"] - before["failed"]
                print(
                    f"kill {number + 1} of {KILLS}: back after {seconds:.1f} s, {meanwhile} answered meanwhile, "
                    f"{failed} failed",
                    flush=True,
                )
                assert meanwhile > 0, "the other workers go on"
                assert failed <= batch
                assert leased_places(server) == places
        assert set(load.counts) <= {"right", "failed"}, load.counts
        assert server.describe()["status"] == "ready"


def kill_one(server: Server, load: Load, number: int) -> tuple[float, int]:
    """Kill the worker on one of the cores; return the seconds until it is back, and the right answers meanwhile."""
    victim = server.holders()[number % WORKERS].pid
    others = set(server.worker_pids()) - {victim}
    right, began = load.snapshot()["right"], time.monotonic()
    os.kill(victim, signal.SIGKILL)

    def is_back() -> bool:
        pids = [holder.pid for holder in server.holders()]
        return len(pids) == WORKERS and victim not in pids and others < set(pids) and pids_of(server) == sorted(pids)

    wait_for(is_back, "the killed worker is back with a lease, the others are the same", log=server.log)
    return time.monotonic() - began, load.snapshot()["right"] - right


def leased_places(server: Server) -> list[tuple[int, int]]:
    """Return the leased cores and places; none may be there twice."""
    places = [(holder.core, holder.place) for holder in server.holders()]
    assert len(set(places)) == len(places) == WORKERS
    return places


def pids_of(server: Server) -> list[int]:
    """Return the workers that TorchServe takes for ready, or none while it is busy restarting one."""
    try:
        return server.worker_pids()
    except (requests.RequestException, LookupError, ValueError):
        return []
