"""Malformed and good requests by the thousand, all at once."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests import servers
from tests.catalogue import FORMS, Request, malformed, sent
from tests.long.conftest import Shipped
from tests.servers import Server

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
EACH = 1000  # malformed requests in a round, and good ones
CONCURRENCY = 32
ROUNDS = 8
MOST_GROWTH = {"worker 0": 40, "worker 1": 40, "server": 150}  # MB after the first round; netty pools blocks of 16 MB
_MB = 1_000_000


def test_a_storm_of_malformed_requests_harms_nobody(shipped: Shipped, plain_python: Path, tmp_path: Path) -> None:
    """Every malformed one is a 4xx in JSON, every good one right, the workers stay the same, and memory stays flat."""
    # The whole heap is touched at the start, so that what grows later is a leak.
    settings = {"vmargs": "-Xms512m -Xmx512m -XX:+AlwaysPreTouch"}
    with servers.run_server(
        shipped.archive, tmp_path / "s", probe=shipped.probe, python=plain_python, workers=2, settings=settings
    ) as server:
        before = server.worker_pids()
        memory: list[dict[str, int]] = []
        for number in range(ROUNDS):
            answers = send_round(server, shipped)
            memory.append(measure_memory(server))
            print(f"round {number + 1} of {ROUNDS}: {dict(answers)}, memory in MB {memory[-1]}", flush=True)
            assert answers == {"right": EACH, "refused": EACH}
        assert server.worker_pids() == before
        growth = {name: memory[-1][name] - memory[0][name] for name in memory[0]}
        assert all(growth[name] < most for name, most in MOST_GROWTH.items()), f"MB after each round: {memory}"


def send_round(server: Server, shipped: Shipped) -> Counter[str]:
    """Send the same mix of requests in the same order, and return how many were answered how."""
    work = [(0, FORMS[form](body), expected) for form in FORMS for body, expected in shipped.good]
    work = (work * (EACH // len(work) + 1))[:EACH]
    faults = list(malformed().values())
    work += [(status, request, None) for status, request in (faults * (EACH // len(faults) + 1))[:EACH]]
    random.Random(0).shuffle(work)
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return Counter(pool.map(lambda each: judge(server, shipped, *each), work))


def judge(server: Server, shipped: Shipped, status: int, request: Request, expected: Any) -> str:
    """Return "right", "refused", or what was wrong with the answer to a request."""
    try:
        answer = server.predict(**sent(request), timeout=120)
        content = answer.json()
    except (requests.RequestException, ValueError) as exc:
        return f"no answer: {exc!r}"[:200]
    if expected is not None:
        fault = f"{answer.status_code} {content}" if answer.status_code != 200 else shipped.fault_of(content, expected)
        return fault or "right"
    allowed = (400, 415) if status == 4 else (status,)
    whole = sorted(content) == ["code", "message", "type"] and content["code"] == answer.status_code
    return "refused" if answer.status_code in allowed and whole else f"{answer.status_code} {content}, not {status}"


def measure_memory(server: Server) -> dict[str, int]:
    """Return the resident memory of the server and of each of its workers, in MB."""
    alive = {process.pid: process for process in servers.processes_of(server)}
    found = {f"worker {number}": alive[pid].memory_info().rss for number, pid in enumerate(server.worker_pids())}
    java: list[psutil.Process] = [process for process in alive.values() if process.name() == "java"]
    return {name: size // _MB for name, size in {**found, "server": java[0].memory_info().rss}.items()}
