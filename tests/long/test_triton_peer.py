"""The benchmark's peer, NVIDIA Triton, where there is one: it does the same job, rightly, and leaves nothing behind."""

import json
import os
from pathlib import Path

import psutil
import pytest
import requests

from benchmarking.measuring import measure
from benchmarking.systems import Running
from benchmarking.triton import run_triton
from tests.long.conftest import Shipped
from tests.ports import find_port_row

PYTHON = os.environ.get("TRITON_PYTHON", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="TRITON_PYTHON names no interpreter of an environment with nvidia-pytriton"),
]


def ask(running: Running, body: bytes) -> requests.Response:
    """Return Triton's answer to a body."""
    url = f"http://127.0.0.1:{running.port}{running.path}"
    return requests.post(url, data=body, headers=dict(running.headers), timeout=30)


def find_left_over() -> set[str]:
    """Return the processes of Triton that live and its shared memory."""
    found = psutil.process_iter(["name", "status"])
    alive = [each for each in found if each.info["status"] != psutil.STATUS_ZOMBIE]
    names = {f"{each.pid}" for each in alive if (each.info["name"] or "").startswith("triton")}
    return names | {each.name for each in Path("/dev/shm").glob("triton-*")}


@pytest.mark.parametrize("fused", [False, True])
def test_answers_under_load_are_the_golden_ones(shipped: Shipped, fused: bool) -> None:
    """Two instances, batches, sixteen connections: no wrong answer, no error, and figures for server and workers."""
    before = find_left_over()
    with run_triton(shipped.record.name, find_port_row(3), python=Path(PYTHON), instances=2, fused=fused) as running:
        golden = [(body, "image/png") for body, _ in shipped.good]
        sample = measure(running, shipped.record, golden, seconds=1.0, concurrency=16)
        assert len(running.workers()) == 2
    assert (sample.errors, sample.wrong) == ({}, 0)
    assert min(sample.rate, sample.server_ms, sample.worker_ms) > 0
    assert sample.log_bytes == 0
    assert find_left_over() <= before


def test_a_broken_picture_fails_alone(shipped: Shipped) -> None:
    """It is told so, and the next picture is answered."""
    with run_triton(shipped.record.name, find_port_row(3), python=Path(PYTHON), instances=1) as running:
        refused = ask(running, b"no picture")
        assert (refused.status_code, "no picture" in refused.text) == (500, True)
        body, expected = shipped.good[0]
        answer = ask(running, body)
        assert answer.status_code == 200
        assert shipped.fault_of(json.loads(running.decode(answer.content)), expected) == ""
