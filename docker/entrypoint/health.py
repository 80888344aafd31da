"""Whether the container's models answer: every worker there, and every handler able to serve.

TorchServe's own ``/ping`` says Healthy while every worker dies and starts again.
"""

import time
from typing import List, Optional, Tuple

from .asking import Server, read_served
from .settings import Settings

_IN_ALL = 4.0  # seconds; the images' HEALTHCHECK gives five


def find_faults(settings: Settings) -> List[str]:
    """Return why the container is not able to serve, a sentence each, nothing where it is."""
    served = read_served(settings.folder)
    if served is None:
        return ["the server has not been started yet"]
    if served.draining:
        return ["the container is being stopped"]
    server, deadline = Server(settings), time.monotonic() + _IN_ALL
    faults = [_find_fault(server, model, deadline) for model in served.models]
    return [fault for fault in faults if fault]


def _find_fault(server: Server, model: Tuple[str, str, int], deadline: float) -> Optional[str]:
    name, version, workers = model
    state = server.read_state(name, version)
    if state is None:
        return f"{name} {version}: the server does not answer, or does not know the model"
    if state.ready < workers:
        return f"{name} {version}: {state.ready} of {workers} workers are ready"
    # Idle workers take questions in turn, so that as many questions as workers reach each of them.
    for _ in range(0 if state.pending else workers):
        said = server.question_worker(name, version, deadline - time.monotonic())
        if said is None or time.monotonic() > deadline:
            return None  # busy: a worker that cannot serve would have refused at once
        if said.get("status", "ready") != "ready":
            return f"{name} {version}: a worker cannot serve: {said.get('reason', said['status'])}"
    return None
