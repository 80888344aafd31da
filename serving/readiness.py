"""Whether a started server truly serves: a real prediction, never ``/ping``, which says Healthy in a crash loop."""

import json
import time
from collections.abc import Callable

from handlers.artifact import Record
from handlers.comparing import find_difference
from serving.errors import NotReady
from serving.requesting import Client, Reply
from serving.runs import RunFolder, RunState, find_process

Progress = Callable[[str], None]
_SHORTEST, _LONGEST = 0.05, 0.2  # seconds between two looks
_SHARE = (
    0.02  # of the time waited so far, between these bounds: a look costs 6 ms of processor time, which the workers want
)
_TRY = 3.0  # seconds for the management API to answer
_PATIENCE = 30.0  # seconds for one prediction of a worker that has loaded
_SAY = 5.0  # seconds between two lines of progress
_DEATH = "Load model failed"  # what TorchServe logs, as a warning, for each worker that dies while it loads
_DEATHS = 3  # of each worker; TorchServe itself goes on for five minutes, and clients hang meanwhile


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

    Raises ``NotReady`` at once when the server is dead, the model is not loaded, its workers die again and again or say
    that they cannot serve, and after ``wait`` seconds otherwise, with the last lines of the logs.
    """
    began = said = time.monotonic()
    what = f"{record.name} on port {client.port}"
    seen = "the management API does not answer"
    while (left := wait - (time.monotonic() - began)) > 0:
        if find_process(state) is None:
            raise NotReady(f"TorchServe ended while {what} was loading\n{read_tail(folder)}")
        reply = client.ask_state(record.name, customized=False, timeout=_TRY)
        if reply.status == 404:
            raise NotReady(f"TorchServe did not load {what}: {reply.read_error()[1]}\n{read_tail(folder)}")
        workers = _read_workers(reply)
        loaded = sum(status == "READY" for status in workers)
        if workers:
            seen = f"{loaded} of {len(workers)} workers have loaded"
        if loaded:
            # Not before: with every worker in a crash loop a prediction hangs for ever.
            answer = client.predict(record.name, body, record.golden[0].content_type, timeout=min(left, _PATIENCE))
            _raise_if_final(answer, what)
            if answer.status == 200 and loaded == len(workers):
                _ensure_true(answer, record)
                return answer
            if answer.status != 200:
                seen += f", and the last answer was {answer.status or 'none'}: {' '.join(answer.read_error())}"
        deaths = _count_deaths(folder)
        if workers and deaths >= _DEATHS * len(workers):
            raise NotReady(f"the workers of {what} die while they load ({deaths} times)\n{read_tail(folder)}")
        if time.monotonic() - said >= _SAY:
            said = time.monotonic()
            progress(f"waiting for {what} ... {said - began:.0f} s, {seen}")
        time.sleep(min(max((time.monotonic() - began) * _SHARE, _SHORTEST), _LONGEST))
    raise NotReady(f"{what} was not ready within {wait:.0f} s: {seen}\n{read_tail(folder)}")


def read_tail(folder: RunFolder, lines: int = 15) -> str:
    """Return the last lines of each of a server's logs, for a message."""
    parts = []
    for path in sorted(folder.logs.glob("*.log")):
        content = path.read_text(errors="replace").strip().splitlines()[-lines:]
        if content:
            parts.append(f"--- {path.name}, last lines ---\n" + "\n".join(content))
    return "\n".join([*parts, f"The logs are kept in {folder.failed}."])


def _read_workers(reply: Reply) -> list[str]:
    """Return the status of each worker in an answer of the management API, none if it is no description."""
    try:
        return [str(each["status"]) for each in json.loads(reply.text)[0]["workers"]] if reply.status == 200 else []
    except (ValueError, KeyError, IndexError, TypeError):
        return []


def _count_deaths(folder: RunFolder) -> int:
    try:
        return (folder.logs / "server.log").read_text(errors="replace").count(_DEATH)
    except OSError:
        return 0


def _raise_if_final(reply: Reply, what: str) -> None:
    kind, message = reply.read_error()
    # TorchServe's own 503 (no worker yet) passes; our handler's says why, and its reasons stay.
    if reply.status == 503 and kind and kind not in ("ServiceUnavailableException", "InternalServerException"):
        raise NotReady(f"{what} cannot serve: {kind}: {message}")
    if 400 <= reply.status < 500:
        raise NotReady(f"{what} refuses its own golden request: {reply.status} {kind}: {message}")


def _ensure_true(reply: Reply, record: Record) -> None:
    golden = record.golden[0]
    difference = find_difference(golden.answer, json.loads(reply.text), record.golden_tolerance)
    if difference:
        raise NotReady(f"the served {record.name} answers {golden.name} wrongly: {difference}")
