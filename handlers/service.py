"""The life of a worker as TorchServe sees it: ``initialize`` once, then ``handle`` for each batch.

A worker that cannot serve answers every request at once with 503 and the reason, because TorchServe lets clients hang
while a worker dies and restarts. Where waiting can help (no free core), it tries again in the background.
"""

import gc
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from handlers import neuron
from handlers.errors import CannotServe, KitError, ModelError, RequestError
from handlers.frontend import ARRIVAL_HEADER, HEADERS
from handlers.metrics import HANDLE, READ, Laps, Metrics, make_place
from handlers.payloads import Encoded, Payload, pick_parameters
from handlers.reporting import Reporter, read_names
from handlers.responses import JSON, NPY, choose_type
from handlers.starting import start_worker
from handlers.worker import Worker

EMULATED_HEADER = "X-Neuron-Emulated"  # of every answer that no chip computed; its value is the emulated instance
RANDOM_HEADER = "X-Random-Weights"  # of every answer of a model that was never trained
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between attempts to start; doubled each time
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_REASONS = {400: "Bad Request", 406: "Not Acceptable", 413: "Payload Too Large", 415: "Unsupported Media Type"}
_REASONS.update({500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable"})


class Service:
    """One worker: starting, ready, or unable to serve."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worker: Optional[Worker] = None
        self.fault: Optional[CannotServe] = None
        self.frontend = "not asked"  # how requests are read from TorchServe: "fast", or why its own way stays
        self.attempts = 0
        self.ready_since = 0.0
        self.metrics = Metrics()
        self.reporter = Reporter(self.metrics)
        self.laps = Laps()

    def initialize(self, context: Any = None) -> None:
        """Start the worker; never raises, because the reason is to reach the clients.

        Metrics are reported to the TorchServe whose ``context`` it is.
        """
        self._try_start()
        names = read_names(context)
        if names is not None:
            self.reporter.start(names)
        if self.fault is not None and self.fault.retryable:
            threading.Thread(target=self._keep_trying, name="start-again", daemon=True).start()

    def handle(self, rows: List[Mapping[str, Any]], context: Any) -> List[bytes]:
        """Return one encoded answer for each row, in order, whatever the rows hold."""
        began = time.perf_counter()
        self.laps.restart()
        answers: List[Any] = [None] * len(rows)
        payloads, explained, described = self._read_rows(rows, context, answers)
        self.laps.end(READ)
        for index, answer in zip(payloads, self._answer(list(payloads.values()))):
            answers[index] = answer
        seconds = self.laps.seconds
        if explained:  # a thousand runs each: only the time of the whole batch holds them
            self.laps.restart()
            for index, answer in zip(explained, self._explain(list(explained.values()))):
                answers[index] = answer
        for name, value in self._marks().items():
            for index in range(len(rows)):
                context.set_response_header(index, name, value)
        encoded = [_encode(answer, context, index) for index, answer in enumerate(answers)]
        statuses = [status for index, (status, _) in enumerate(encoded) if index not in described]
        if statuses:
            seconds[HANDLE] = time.perf_counter() - began
            self.metrics.count_batch(statuses, seconds)
            self.reporter.touch()
        return [body for _, body in encoded]

    def describe(self) -> Dict[str, Any]:
        """Return the worker's state, for ``GET /models/<name>?customized=true``."""
        if self.worker is None:
            state: Dict[str, Any] = {"status": "cannot serve" if self.fault else "starting", "attempts": self.attempts}
            if self.fault is not None:
                state.update(type=type(self.fault).__name__, reason=str(self.fault), retrying=self.fault.retryable)
            return state
        worker = self.worker
        return {
            "status": "ready",
            "attempts": self.attempts,
            "ready_since": round(self.ready_since, 3),
            "model": worker.record.name,
            "version": worker.record.version,
            "target": worker.variant.target,
            "emulated": worker.variant.emulated,
            "passed_over": worker.passed_over,
            "frontend": self.frontend,
            "cores": list(worker.lease.cores),
            "core_shared": worker.lease.place > 0,
            "batch_sizes": worker.batch_sizes,
            "buckets": worker.bucket_sizes,
            "padding_share": round(worker.waste.share, 4),
            "random_weights": worker.record.random_weights,
            "verified_on": worker.variant.verified_on,
            "golden_requests": len(worker.record.golden),
            "start_seconds": worker.seconds,
        }

    def _read_rows(
        self, rows: List[Mapping[str, Any]], context: Any, answers: List[Any]
    ) -> Tuple[Dict[int, Payload], Dict[int, Payload], Set[int]]:
        """Return by their place the rows to predict, those to explain, and the questions for the worker's state.

        The others get their answers here.
        """
        payloads: Dict[int, Payload] = {}
        explained: Dict[int, Payload] = {}
        described: Set[int] = set()
        now = time.time()
        for index, row in enumerate(rows):
            headers, types = read_headers(context.get_all_request_header(index) or {})
            if headers.get("describe") == "True":
                answers[index] = self.describe()
                described.add(index)
                continue
            if ARRIVAL_HEADER in headers:
                self.metrics.count_wait(headers[ARRIVAL_HEADER], now)
            try:
                wanted = explained if headers.get("explain") == "True" else payloads
                wanted[index] = self._read(row, headers, types)
            except KitError as exc:
                answers[index] = exc
            except Exception as exc:  # whatever one client sent, its neighbours are to be answered
                traceback.print_exc()
                answers[index] = ModelError(f"the request cannot be read ({type(exc).__name__})")
        return payloads, explained, described

    def _read(self, row: Mapping[str, Any], headers: Mapping[str, str], types: Mapping[str, str]) -> Payload:
        if self.worker is None:
            # Without the traceback of earlier times, which grows with each raise and keeps those requests in memory.
            raise (self.fault or CannotServe("the worker is still starting")).with_traceback(None)
        handler, explain = self.worker.handler, headers.get("explain") == "True"
        offered = handler.explanation_types if explain else (JSON, NPY)
        accept, wished = choose_type(headers.get("accept"), offered)
        payload = handler.read(row, types)
        if not wished and accept == payload.accept:
            return payload
        parameters = {**pick_parameters(wished, handler.parameters), **payload.parameters}
        return payload._replace(parameters=parameters, accept=accept)

    def _answer(self, payloads: List[Payload]) -> List[Any]:
        if not payloads or self.worker is None:
            return []
        try:
            return self.worker.answer(payloads)
        except Exception as exc:  # a fault of a handler outside preprocess and postprocess
            traceback.print_exc()
            return [ModelError(f"the handler failed ({type(exc).__name__}: {exc})") for _ in payloads]

    def _explain(self, payloads: List[Payload]) -> List[Any]:
        if not payloads or self.worker is None:
            return []
        from handlers.explaining import explain_payload  # costs a second, and few ask

        return [explain_payload(self.worker, payload, share=len(payloads)) for payload in payloads]

    def _marks(self) -> Dict[str, str]:
        """Return the headers of answers that are not to be taken for a chip's, or a trained model's."""
        marks = {}
        if self.worker is not None and self.worker.variant.emulated:
            marks[EMULATED_HEADER] = os.environ.get(neuron.INSTANCE_VARIABLE, "unknown")
        if self.worker is not None and self.worker.record.random_weights:
            marks[RANDOM_HEADER] = "true"
        return marks

    def take(self, worker: Worker) -> None:
        """Serve with a worker that has started, and count what it does from now on."""
        worker.waste, worker.laps = self.metrics.waste, self.laps
        self.worker, self.fault, self.ready_since = worker, None, time.time()
        place = make_place(worker.lease.cores, worker.variant.target, worker.variant.emulated)
        self.metrics.set_serving(place, seconds=worker.seconds, golden=bool(worker.record.golden))
        # What is there now stays for good: a full collection that looked through torch's objects as well would stop
        # the worker for tens of milliseconds.
        gc.freeze()

    def _try_start(self) -> None:
        self.attempts += 1
        try:
            self.take(start_worker(self.folder))
        except CannotServe as exc:
            self.fault = exc
        except Exception as exc:
            self.fault = CannotServe(f"the worker did not start ({type(exc).__name__}: {exc})")
            self.fault.__cause__ = exc
        if self.fault is not None:
            self.metrics.set_fault(self.fault)
            _warn(f"cannot serve: {self.fault}")
        elif self.worker is not None and self.worker.lease.place > 0:
            _warn(f"shares core(s) {list(self.worker.lease.cores)} with another worker: no core is free on this host")
        self.reporter.touch()

    def _keep_trying(self) -> None:
        wait = _FIRST_WAIT
        while self.fault is not None and self.fault.retryable:
            time.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
            self._try_start()


def encode_error(error: KitError) -> Tuple[int, bytes]:
    """Return the HTTP status and JSON body ``{code, type, message}`` for an error."""
    status = error.status if isinstance(error, (RequestError, ModelError)) else 503
    body = {"code": status, "type": type(error).__name__, "message": str(error)}
    return status, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _encode(answer: Any, context: Any, index: int) -> Tuple[int, bytes]:
    """Return the status and the body of an answer, both noted in the context."""
    if isinstance(answer, Encoded):
        context.set_response_content_type(index, answer.content_type)
        return 200, answer.body
    if not isinstance(answer, KitError):
        try:
            # A client's own id may hold half a surrogate pair, which UTF-8 cannot.
            body = _encode_json(answer).encode("utf-8", "replace")
            context.set_response_content_type(index, "application/json")
            return 200, body
        except (ValueError, TypeError) as exc:
            answer = ModelError(f"the handler's answer cannot be written as JSON: {exc}")
    status, body = encode_error(answer)
    _forget_frames(answer)
    context.set_response_content_type(index, "application/json")
    context.set_response_status(status, _REASONS[status], index)
    return status, body


def _forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and of those behind it.

    Their frames refer to the batch and to the error itself: such a cycle keeps every refused request in memory until a
    full garbage collection, which a process with torch in it carries out rarely.
    """
    behind: Optional[BaseException] = error
    while behind is not None:
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__


def read_headers(sent: Mapping[str, Any]) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Return those of a request's headers that matter here, and the content type of each of its fields, by name.

    Names and types are in lower case: TorchServe keeps the client's spelling. It notes a field among the headers, by a
    dictionary with its content type.
    """
    headers: Dict[str, str] = {}
    types: Dict[str, str] = {}
    for name, value in sent.items():
        if isinstance(value, dict):
            types[name.lower()] = str(value.get("content-type", "")).lower()
        elif name in HEADERS or name.lower() in HEADERS:
            headers[name.lower()] = str(value)
    types.setdefault("body", headers.get("content-type", "").lower())
    return headers, types


def _warn(message: str) -> None:
    # TorchServe logs a worker's standard error as warnings, one line each.
    print(message.replace("\n", " "), file=sys.stderr, flush=True)
