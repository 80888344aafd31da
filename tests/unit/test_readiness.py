"""When a server counts as ready: stand-ins for TorchServe's two addresses say what a real one would."""

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest

from handlers.artifact import Golden
from serving.errors import NotReady
from serving.readiness import wait_until_ready
from serving.requesting import Client, Reply
from serving.runs import RunFolder, RunState, read_start
from tests.forging import make_record
from tests.ports import find_port_row

RECORD = make_record(golden=(Golden("a.png", "golden/0-a.png", "image/png", {"red": 0.9, "blue": 0.1}),))
RIGHT = (200, {"red": 0.9, "blue": 0.1})
READY, LOADING = [{"workers": [{"status": "READY"}]}], [{"workers": [{"status": "UNLOADING"}]}]
Answer = tuple[int, Any]  # HTTP status and body, which is whatever JSON can hold


@contextmanager
def stand_in(state: Answer, prediction: Answer) -> Iterator[RunFolder]:
    """Answer every request to the management address with ``state``, every prediction with ``prediction``."""
    port = find_port_row(2)
    servers = [make_server(port, prediction), make_server(port + 1, state)]
    folder = RunFolder(port)
    folder.create()
    try:
        yield folder
    finally:
        for each in servers:
            each.shutdown()
            each.server_close()
        folder.remove()


def make_server(port: int, answer: Answer) -> ThreadingHTTPServer:
    """Start a server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def wait(folder: RunFolder, seconds: float = 1.0, moved: float = 0.0) -> Reply:
    """Wait for the stand-in, whose process is this one."""
    created = read_start(psutil.Process()) + moved
    state = RunState(folder.port, os.getpid(), created, "tiny", "", "", {})
    client = Client(folder.port, folder.path)
    return wait_until_ready(client, state, RECORD, b"picture", folder, seconds, progress=print)


def error(code: int, kind: str, message: str) -> Answer:
    """Return an error as TorchServe and our handlers write it."""
    return code, {"code": code, "type": kind, "message": message}


def test_a_right_answer_is_ready() -> None:
    """With every worker loaded and the golden answer right, the answer is returned."""
    with stand_in((200, READY), RIGHT) as folder:
        assert json.loads(wait(folder).text) == RIGHT[1]


def test_a_small_difference_is_ready() -> None:
    """Another processor rounds differently."""
    with stand_in((200, READY), (200, {"red": 0.9 + RECORD.golden_tolerance / 2, "blue": 0.1})) as folder:
        assert wait(folder).status == 200


REFUSED = [
    ((200, READY), error(503, "NoCores", "all are taken"), "cannot serve: NoCores: all are taken"),
    ((200, READY), error(400, "BadRequest", "no picture"), "refuses its own golden request: 400 BadRequest"),
    ((200, READY), (200, {"red": 0.5, "blue": 0.5}), "answers a.png wrongly"),
    (error(404, "ModelNotFoundException", "Model not found: tiny"), RIGHT, "did not load tiny .*Model not found"),
    ((200, LOADING), RIGHT, "not ready within .*0 of 1 workers have loaded"),
    ((200, [{"workers": READY[0]["workers"] + LOADING[0]["workers"]}]), RIGHT, "1 of 2 workers have loaded"),
    ((200, READY), error(503, "InternalServerException", "Prediction failed"), "the last answer was 503: Internal"),
    ((200, READY), error(500, "InternalServerException", "Worker died."), "the last answer was 500: .*Worker died"),
    ((500, "?"), RIGHT, "the management API does not answer"),
]


@pytest.mark.parametrize(("state", "prediction", "message"), REFUSED)
def test_anything_else_is_not_ready_and_says_why(state: Answer, prediction: Answer, message: str) -> None:
    """Each way of not serving has its own words."""
    with stand_in(state, prediction) as folder, pytest.raises(NotReady, match=message):
        wait(folder)


def test_a_dead_server_is_noticed_at_once() -> None:
    """Nobody waits for a process that has ended, and the end of its logs is shown."""
    with stand_in((200, LOADING), RIGHT) as folder, pytest.raises(NotReady, match=r"(?s)ended while .*the last words"):
        (folder.logs / "console.log").write_text("the last words\n")
        wait(folder, seconds=60, moved=-100)


def test_workers_that_die_again_and_again_are_noticed_before_the_deadline() -> None:
    """TorchServe would try for five minutes; three deaths of a worker are enough."""
    died = "[WARN ] BatchAggregator - Load model failed: tiny, error: Worker died.\n"
    with stand_in((200, LOADING), RIGHT) as folder, pytest.raises(NotReady, match=r"die while they load \(3 times\)"):
        (folder.logs / "server.log").write_text(died * 3)
        wait(folder, seconds=60)


def test_progress_says_what_is_waited_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at a silent terminal."""
    monkeypatch.setattr("serving.readiness._SAY", 0.1)
    with stand_in((200, LOADING), RIGHT) as folder, pytest.raises(NotReady):
        wait(folder)
    assert "waiting for tiny on port" in capsys.readouterr().out


def test_the_record_of_these_tests_is_whole() -> None:
    """A record without golden requests could not be waited for."""
    assert dataclasses.asdict(RECORD)["golden"]
