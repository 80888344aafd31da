"""Whether a started server truly serves: a real prediction, never ``/ping``, which says Healthy in a crash loop."""

import json
import time
from collections.abc import Callable

from handlers.artifact import Record
from handlers.worker import find_difference
from serving.errors import NotReady
from serving.requesting import Client, Reply
from serving.runs import RunFolder, RunState, find_process

Progress = Callable[[str], None]
_PAUSE = 0.2  # seconds between two looks
_TRY = 3.0  # seconds for one prediction, because a worker in a crash loop leaves it hanging
_SAY = 5.0  # seconds between two lines of progress


def wait_until_ready(
    client: Client,
    state: RunState,
    record: Record,
    body: bytes,
    folder: RunFolder,
    wait: float,
    *,
    progress: Progress,
) -> Reply:
    """Return the answer to the first golden request once it is the expected one and every worker has loaded.

    Raises ``NotReady`` at once when the server is dead, the model is not loaded or a worker says that it cannot serve,
    and after ``wait`` seconds otherwise, with the last lines of the logs.
    """
    began = time.monotonic()
    said = began
    what = f"{record.name} on port {client.port}"
    last = Reply(0, "no answer yet")
    while time.monotonic() - began < wait:
        if find_process(state) is None:
            raise NotReady(f"TorchServe ended while {what} was loading\n{read_tail(folder)}")
        last = client.predict(record.name, body, record.golden[0].content_type, timeout=_TRY)
        if last.status == 200 and _all_loaded(client, record.name):
            _ensure_true(last, record)
            return last
        _raise_if_final(last, what, folder)
        if time.monotonic() - said >= _SAY:
            said = time.monotonic()
            progress(f"waiting for {what} ... {said - began:.0f} s")
        time.sleep(_PAUSE)
    kind, message = last.read_error()
    why = f"{kind or 'no answer'}: {message}"
    raise NotReady(f"{what} did not answer within {wait:.0f} s; last: {why}\n{read_tail(folder)}")


def read_tail(folder: RunFolder, lines: int = 15) -> str:
    """Return the last lines of each of a server's logs, for a message."""
    parts = []
    for path in sorted(folder.logs.glob("*.log")):
        content = path.read_text(errors="replace").strip().splitlines()[-lines:]
        if content:
            parts.append(f"--- {path.name}, last lines ---\n" + "\n".join(content))
    kept = folder.path.with_name(f"{folder.port}-failed")
    return "\n".join([*parts, f"The logs are kept in {kept}."])


def _all_loaded(client: Client, model: str) -> bool:
    described = client.describe(model, customized=False, timeout=_TRY)
    return described is not None and all(each["status"] == "READY" for each in described[0]["workers"])


def _raise_if_final(reply: Reply, what: str, folder: RunFolder) -> None:
    kind, message = reply.read_error()
    # TorchServe's own 503 (no worker yet) passes; our handler's says why, and its reasons stay.
    if reply.status == 503 and kind and kind not in ("ServiceUnavailableException", "InternalServerException"):
        raise NotReady(f"{what} cannot serve: {kind}: {message}")
    if reply.status == 404:
        raise NotReady(f"TorchServe did not load {what} ({message})\n{read_tail(folder)}")
    if 400 <= reply.status < 500:
        raise NotReady(f"{what} refuses its own golden request: {reply.status} {kind}: {message}")


def _ensure_true(reply: Reply, record: Record) -> None:
    golden = record.golden[0]
    difference = find_difference(golden.answer, json.loads(reply.text), record.golden_tolerance)
    if difference:
        raise NotReady(f"the served {record.name} answers {golden.name} wrongly: {difference}")
