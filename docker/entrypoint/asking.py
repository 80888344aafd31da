"""What the running server says of itself on its management and metrics addresses; every question is bounded in time."""

import http.client
import json
import re
import socket
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .settings import Settings
from .torchserve import KEYS

_STATE = "serving.json"
_ARRIVALS = re.compile(r"^ts_inference_requests_total(?:_total)?\{[^}]*\} (\S+)$", re.MULTILINE)
_PATIENCE = 2.0  # seconds for what TorchServe answers by itself


class Served(NamedTuple):
    """What this container serves, kept in a file for the health check, a process of its own."""

    models: Tuple[Tuple[str, str, int], ...]  # name, version, workers
    draining: bool


class ModelState(NamedTuple):
    """One version of a model, as TorchServe sees it."""

    ready: int  # workers
    pending: int  # requests in the queue


class Server:
    """The running TorchServe; a question that is not answered gives None."""

    def __init__(self, settings: Settings) -> None:
        self._management = (_reachable(settings.management_bind), settings.management_port)
        self._metrics = (_reachable(settings.metrics_bind), settings.metrics_port)
        self._keys = settings.folder / KEYS

    def listens(self) -> bool:
        """Whether the server has opened its addresses: before, it cannot have accepted anything."""
        try:
            socket.create_connection(self._management, _PATIENCE).close()
            return True
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # too busy to answer

    def read_state(self, model: str, version: str, seconds: float = _PATIENCE) -> Optional[ModelState]:
        """Return the state of a model's version."""
        found = self._describe(f"/models/{model}/{version}", seconds)
        if found is None:
            return None
        ready = [each for each in found.get("workers", []) if each.get("status") == "READY"]
        return ModelState(len(ready), int((found.get("jobQueueStatus") or {}).get("pendingRequests", 0)))

    def question_worker(self, model: str, version: str, seconds: float) -> Optional[Dict[str, Any]]:
        """Return what one worker says of itself, {} for a handler that says nothing.

        The question waits in the model's queue like a request.
        """
        found = self._describe(f"/models/{model}/{version}?customized=true", seconds)
        if found is None:
            return None
        said = found.get("customizedMetadata")
        return said if isinstance(said, dict) else {}

    def count_arrivals(self) -> Optional[float]:
        """Return how many predictions and explanations have ever come in, counted before they are queued."""
        answer = _get(self._metrics, "/metrics?name[]=ts_inference_requests_total", {}, _PATIENCE)
        return None if answer is None else sum(float(each) for each in _ARRIVALS.findall(answer))

    def _describe(self, path: str, seconds: float) -> Optional[Dict[str, Any]]:
        answer = _get(self._management, path, self._authorise(), seconds)
        try:
            found = json.loads(answer or "")
            return found[0] if isinstance(found[0], dict) else None
        except (ValueError, LookupError, TypeError):
            return None

    def _authorise(self) -> Dict[str, str]:
        try:
            return {"Authorization": "Bearer " + json.loads(self._keys.read_text())["management"]["key"]}
        except (OSError, ValueError, LookupError, TypeError):
            return {}


def write_served(folder: Path, served: Served) -> None:
    """Keep what ``read_served`` returns; readers see the old or the new, never a half."""
    partial = folder / f"{_STATE}.new"
    partial.write_text(json.dumps({"models": served.models, "draining": served.draining}))
    partial.replace(folder / _STATE)


def read_served(folder: Path) -> Optional[Served]:
    """Return what this container serves, or None before its server was started."""
    try:
        found = json.loads((folder / _STATE).read_text())
        models: List[Tuple[str, str, int]] = [(str(n), str(v), int(w)) for n, v, w in found["models"]]
        return Served(tuple(models), bool(found["draining"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _get(address: Tuple[str, int], path: str, headers: Dict[str, str], seconds: float) -> Optional[str]:
    connection = http.client.HTTPConnection(*address, timeout=max(0.05, seconds))
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        content = answer.read().decode("utf-8", "replace")
        return content if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _reachable(bind: str) -> str:
    return "127.0.0.1" if bind == "0.0.0.0" else bind  # noqa: S104  compared, not bound
