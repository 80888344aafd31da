"""Waiting until what clients sent is answered, by TorchServe's own queues, while more may come in.

A model's queue is first in, first out, and a question to describe a worker waits in it like a request. So a worker that
answers such a question has answered all that it was given before; once every worker of a model has answered one,
nothing of what was queued or in work before the first question is left. Handlers of the kit are told apart by their
cores and the moment they became ready.
"""

import threading
import time
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Set, Tuple

from .asking import Server

SETTLE = 0.3  # seconds for requests that the kernel has accepted to reach their queue
QUIET = 1.0  # seconds without a new request, after which a load balancer has understood that this container goes
_QUESTION = 5.0  # seconds for one answer; the queue ahead may be long


class Drained(NamedTuple):
    """How a drain ended."""

    accepted: bool  # all that was accepted before it began is answered
    quiet: bool  # nothing has come in for a second, and all is answered


def drain(server: Server, models: Sequence[Tuple[str, str, int]], deadline: float, stop: Callable[[], bool]) -> Drained:
    """Return when all is answered and nothing more comes in, at ``deadline`` (of ``monotonic``), or when ``stop()``.

    Requests that come in meanwhile are answered as ever.
    """
    time.sleep(SETTLE)
    accepted = False
    if not server.listens():
        return Drained(True, True)
    while time.monotonic() < deadline and not stop():
        before, since = server.count_arrivals(), time.monotonic()
        answered = wait_until_answered(server, models, deadline, stop)
        accepted = accepted or answered
        if answered and _stays_quiet(server, before, since + QUIET, deadline, stop):
            return Drained(True, True)
    return Drained(accepted, False)


def wait_until_answered(
    server: Server, models: Sequence[Tuple[str, str, int]], deadline: float, stop: Callable[[], bool]
) -> bool:
    """Return whether all that was accepted before the call is answered at ``deadline``."""
    answered: Dict[Tuple[str, str], bool] = {}
    given_up = threading.Event()

    def ask(name: str, version: str) -> None:
        answered[name, version] = _drain_model(server, name, version, deadline, given_up)

    threads = [threading.Thread(target=ask, args=model[:2], daemon=True) for model in models]
    for thread in threads:
        thread.start()
    # ``stop`` looks at signals, which is the first thread's business.
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline and not given_up.is_set():
        time.sleep(0.02)
        if stop():
            given_up.set()
    return len(answered) == len(models) and all(list(answered.values()))


def _drain_model(server: Server, name: str, version: str, deadline: float, given_up: threading.Event) -> bool:
    seen: Set[Tuple[object, ...]] = set()
    quiet_since = time.monotonic()
    while time.monotonic() < deadline and not given_up.is_set():
        state = server.read_state(name, version)
        if state is not None and state.ready == 0:
            return True  # nobody is there who would answer
        if state is not None and state.pending:
            quiet_since = time.monotonic()
        said = server.question_worker(name, version, min(_QUESTION, deadline - time.monotonic()))
        if said is not None and said.get("cores"):
            seen.add((*said["cores"], said.get("ready_since")))  # a processor may have several workers
        elif said is not None and (said.get("status") == "cannot serve" or time.monotonic() - quiet_since > QUIET):
            # One that cannot serve refuses at once. A handler that does not say which worker it is: by its queue alone.
            return True
        if state is not None and len(seen) >= state.ready:
            return True
        time.sleep(0.01)
    return False


def _stays_quiet(
    server: Server, before: Optional[float], until: float, deadline: float, stop: Callable[[], bool]
) -> bool:
    while time.monotonic() < min(until, deadline) and not stop():
        time.sleep(0.05)
    # Without an answer of the metrics address nobody can say; what was accepted is answered in any case.
    return before == server.count_arrivals()
