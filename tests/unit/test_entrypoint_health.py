"""The health check against a small management API: every worker asked, nothing waited for that is not answered."""

import http.server
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.entrypoints import make_environment

from entrypoint import asking, draining, health  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.settings import Settings, read_settings  # isort: skip
from tests.ports import find_free_ports

READY, LOST = (
    {"status": "ready", "cores": [0]},
    {"status": "cannot serve", "reason": "golden request red: other answer"},
)


@dataclass
class _TorchServe:
    """What a management API answers: workers in turn, and how many requests wait."""

    ready: int = 2
    pending: int = 0
    said: list[Any] = field(default_factory=lambda: [READY])
    seconds: float = 0.0  # for a worker to answer
    asked: int = 0
    arrivals: int = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        state: _TorchServe = self.server.state  # type: ignore[attr-defined]
        if self.path.startswith("/metrics"):
            return self._send(f'ts_inference_requests_total{{model_name="m",}} {state.arrivals}.0\n'.encode())
        workers = [{"status": "READY"}] * state.ready + [{"status": "UNLOADING"}]
        told: dict[str, Any] = {"workers": workers, "jobQueueStatus": {"pendingRequests": state.pending}}
        if "customized" in self.path:
            time.sleep(state.seconds)
            told["customizedMetadata"] = state.said[state.asked % len(state.said)]
            state.asked += 1
        return self._send(json.dumps([told]).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def state() -> _TorchServe:
    """Two ready workers; tests change what they answer."""
    return _TorchServe()


@pytest.fixture
def settings(state: _TorchServe, tmp_path: Path) -> Iterator[Settings]:
    """A container that serves two workers of ``m``, management and metrics on one address."""
    ports = find_free_ports(3)
    chosen = read_settings(make_environment(tmp_path, tmp_path, ports))
    chosen = chosen._replace(metrics_port=chosen.management_port)
    chosen.folder.mkdir()
    asking.write_served(chosen.folder, asking.Served((("m", "1.0", 2),), draining=False))
    with _Listener(("127.0.0.1", chosen.management_port), _Handler) as server:
        server.state = state  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield chosen
        server.shutdown()


def test_all_workers_ready_and_able_is_healthy(state: _TorchServe, settings: Settings) -> None:
    """Each of the two is asked once."""
    assert health.find_faults(settings) == []
    assert state.asked == 2


def test_a_worker_that_is_not_ready_is_told(state: _TorchServe, settings: Settings) -> None:
    """By TorchServe's own state, without a question to the others."""
    state.ready = 1
    assert health.find_faults(settings) == ["m 1.0: 1 of 2 workers are ready"]


def test_the_second_worker_that_cannot_serve_is_found(state: _TorchServe, settings: Settings) -> None:
    """TorchServe calls it READY, and the handler knows better."""
    state.said = [READY, LOST]
    assert health.find_faults(settings) == ["m 1.0: a worker cannot serve: golden request red: other answer"]


@pytest.mark.parametrize("said", [{}, "text", None])
def test_a_handler_of_others_says_nothing(state: _TorchServe, settings: Settings, said: Any) -> None:
    """Then TorchServe's state is all there is."""
    state.said = [said]
    assert health.find_faults(settings) == []


def test_a_queue_is_not_joined(state: _TorchServe, settings: Settings) -> None:
    """A busy model is healthy: a question would wait behind all requests."""
    state.pending = 50
    assert (health.find_faults(settings), state.asked) == ([], 0)


def test_a_draining_container_is_unhealthy_at_once(settings: Settings) -> None:
    """So that a load balancer turns away."""
    asking.write_served(settings.folder, asking.Served((("m", "1.0", 2),), draining=True))
    assert health.find_faults(settings) == ["the container is being stopped"]


def test_a_container_without_a_server_is_unhealthy(settings: Settings) -> None:
    """Before the start, and when nobody answers."""
    assert health.find_faults(settings._replace(management_port=1)) == [
        "m 1.0: the server does not answer, or does not know the model"
    ]
    (settings.folder / "serving.json").unlink()
    assert health.find_faults(settings) == ["the server has not been started yet"]


def _drain(settings: Settings, seconds: float, stop: bool = False) -> draining.Drained:
    deadline = time.monotonic() + seconds
    return draining.drain(asking.Server(settings), [("m", "1.0", 2)], deadline, lambda: stop)


def test_a_drain_ends_when_each_worker_has_answered(state: _TorchServe, settings: Settings) -> None:
    """Workers are told apart by their cores; then a second must pass without arrivals."""
    state.said = [READY, READY, {"status": "ready", "cores": [1]}]
    assert _drain(settings, 20) == (True, True)
    assert state.asked >= 3


def test_workers_that_share_a_processor_are_told_apart(state: _TorchServe, settings: Settings) -> None:
    """By the moment that each became ready."""
    state.said = [{**READY, "ready_since": 1.5}, {**READY, "ready_since": 1.501}]
    assert _drain(settings, 20) == (True, True)


def test_a_drain_waits_for_the_worker_that_has_not_answered(state: _TorchServe, settings: Settings) -> None:
    """One of two alone is no proof: what the other has in work is not answered."""
    assert _drain(settings, 1.5) == (False, False)


def test_a_drain_goes_on_while_requests_come_in(state: _TorchServe, settings: Settings) -> None:
    """What was accepted is answered, but it is not quiet."""
    state.said = [READY, {"status": "ready", "cores": [1]}]
    ended = threading.Event()

    def arrive() -> None:
        while not ended.wait(0.1):
            state.arrivals += 1

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        assert _drain(settings, 3) == (True, False)
    finally:
        ended.set()
        thread.join()


def test_a_server_that_is_not_up_yet_has_nothing_to_answer(settings: Settings) -> None:
    """A container that is stopped while it starts ends at once."""
    began = time.monotonic()
    assert _drain(settings._replace(management_port=1), 20) == (True, True)
    assert time.monotonic() - began < 2


def test_a_second_signal_ends_a_drain(state: _TorchServe, settings: Settings) -> None:
    """At once, whatever is in work."""
    began = time.monotonic()
    assert _drain(settings, 20, stop=True) == (False, False)
    assert time.monotonic() - began < 2
