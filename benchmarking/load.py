"""A load generator for one HTTP/1.1 server on this machine: closed loop or open loop, every answer kept for a check.

It runs in a process of its own (``python -m benchmarking.load``: a JSON object on standard input, one on standard
output), so that its processor time is told from the server's. An open loop measures from the time at which a request
was *to be* sent, so that a server that stalls is charged for those that waited behind it (Tene, "How NOT to measure
latency"; the same as wrk2's).
"""

import array
import base64
import json
import random
import selectors
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_READ = 65536  # bytes
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"  # not the end of another header's name
_MOST_BODIES = 1000  # distinct answers that are kept for each request; a right model has a few
_STALL = 30.0  # seconds without any answer after which the run ends


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What to send, and how."""

    port: int  # on 127.0.0.1
    path: str  # "/predictions/cifar10"
    bodies: Sequence[bytes]  # sent in turn
    content_types: Sequence[str]  # of each body
    seconds: float  # measured
    warm_up: float = 1.0  # seconds before that, which do not count
    concurrency: int = 1  # connections of a closed loop; most connections of an open one
    rate: float = 0.0  # requests a second of an open loop, at random times (Poisson); 0: closed loop
    seed: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)  # beside the usual ones, or in their place


@dataclass
class LoadResult:
    """What came back; a latency for each answer of status 200."""

    seconds: float = 0.0  # from the first counted request to the last counted answer
    latencies: "array.array[float]" = field(default_factory=lambda: array.array("d"))  # seconds
    statuses: "Counter[str]" = field(default_factory=Counter)  # by status, or "no answer"
    answers: list["Counter[bytes]"] = field(default_factory=list)  # for each body sent: what was answered, how often
    cpu_seconds: float = 0.0  # of the generator itself
    unsent: int = 0  # of an open loop: due before the end, and never sent, because no connection was free


class Connection:
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, plan: LoadPlan, messages: Sequence[bytes]) -> None:
        self._plan, self._messages = plan, messages
        self.socket = self._connect()
        self.index = -1  # of the request on its way; -1 for none
        self.since = 0.0  # when it was sent, or was to be
        self._received = bytearray()
        self._expected = 0

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._plan.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, index: int, since: float) -> None:
        """Send the request ``index``; its latency counts from ``since``."""
        self.index, self.since = index, since
        self._received.clear()
        self._expected = 0
        self.socket.sendall(self._messages[index])

    def receive(self) -> tuple[int, bytes] | None:
        """Return the status and body of a whole answer, None while some is missing; raise ``OSError`` if it broke."""
        part = self.socket.recv(_READ)
        if not part:
            raise ConnectionError("the server closed the connection")
        self._received += part
        if not self._expected:
            end = self._received.find(_END_OF_HEAD)
            if end < 0:
                return None
            self._expected = end + len(_END_OF_HEAD) + _content_length(bytes(self._received[:end]))
        if len(self._received) < self._expected:
            return None
        body = self._received.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        return int(self._received[9:12]), bytes(self._received[body : self._expected])

    def reopen(self) -> None:
        """Connect again, after the server has closed the connection, as TorchServe does after each 4xx and 5xx."""
        self.socket.close()
        self.socket = self._connect()


def run_load(plan: LoadPlan) -> LoadResult:
    """Send what the plan says and return what came back; raise ``OSError`` if no connection can be made."""
    messages = [_encode(plan, body, kind) for body, kind in zip(plan.bodies, plan.content_types, strict=True)]
    generator = _Generator(plan, [Connection(plan, messages) for _ in range(plan.concurrency)])
    try:
        return generator.run()
    finally:
        generator.close()


class _Generator:
    """The loop over all connections."""

    def __init__(self, plan: LoadPlan, connections: list[Connection]) -> None:
        self._plan = plan
        self._idle = deque(connections)
        self._connections = connections
        self._selector = selectors.DefaultSelector()
        for each in connections:
            self._selector.register(each.socket, selectors.EVENT_READ, each)
        self._random = random.Random(plan.seed)  # noqa: S311  times of arrival, no secret
        self._next = 0
        self._result = LoadResult(answers=[Counter() for _ in plan.bodies])
        self._began = self._counted_from = self._end = 0.0

    def run(self) -> LoadResult:
        self._began = time.perf_counter()
        self._counted_from = self._began + self._plan.warm_up
        self._end = self._counted_from + self._plan.seconds
        spent = time.process_time()
        (self._run_open if self._plan.rate else self._run_closed)()
        self._result.cpu_seconds = time.process_time() - spent
        return self._result

    def close(self) -> None:
        self._selector.close()
        for each in self._connections:
            each.socket.close()

    def _run_closed(self) -> None:
        while self._idle:
            self._send(self._idle.popleft(), time.perf_counter())
        while self._busy():
            self._wait(_STALL)
            now = time.perf_counter()
            while self._idle and now < self._end:
                self._send(self._idle.popleft(), now)

    def _run_open(self) -> None:
        due, waiting = self._began, deque[float]()
        while due < self._end or waiting or self._busy():
            now = time.perf_counter()
            while due <= now and due < self._end:
                waiting.append(due)
                due += self._random.expovariate(self._plan.rate)
            if now > self._end + _STALL:
                self._result.unsent += len(waiting)
                waiting.clear()
            while waiting and self._idle:
                self._send(self._idle.popleft(), waiting.popleft())
            pause = due - time.perf_counter() if due < self._end else _STALL
            if self._busy() or pause > 0:
                self._wait(max(pause, 0.0), stalls=due >= self._end)

    def _busy(self) -> bool:
        return len(self._idle) < len(self._connections)

    def _send(self, connection: Connection, since: float) -> None:
        index = self._next % len(self._plan.bodies)
        self._next += 1
        try:
            connection.send(index, since)
        except OSError:
            self._fail(connection)

    def _wait(self, seconds: float, *, stalls: bool = True) -> None:
        """Take in what arrives within ``seconds``; give up on all that is on its way if nothing does and it stalls."""
        events = self._selector.select(seconds)
        if not events and stalls:
            for each in [each for each in self._connections if each.index >= 0]:
                self._fail(each)
        for key, _ in events:
            self._take(key.data)

    def _take(self, connection: Connection) -> None:
        try:
            answer = connection.receive()
        except (OSError, ValueError):
            if connection.index >= 0:
                self._fail(connection)
            else:
                self._reopen(connection)
            return
        if answer is not None:
            self._count(connection, *answer)

    def _count(self, connection: Connection, status: int, body: bytes) -> None:
        now = time.perf_counter()
        if connection.since >= self._counted_from and connection.since < self._end:
            self._result.seconds = now - self._counted_from
            self._result.statuses[str(status)] += 1
            if status == 200:
                self._result.latencies.append(now - connection.since)
                seen = self._result.answers[connection.index]
                if body in seen or len(seen) < _MOST_BODIES:
                    seen[body] += 1
        connection.index = -1
        self._idle.append(connection)

    def _fail(self, connection: Connection) -> None:
        if connection.since >= self._counted_from:
            self._result.statuses["no answer"] += 1
        connection.index = -1
        self._reopen(connection)
        self._idle.append(connection)

    def _reopen(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.reopen()
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)


def make_headers(plan: LoadPlan, content_type: str) -> dict[str, str]:
    """Return what a usual client sends, a browser or the requests library: nine headers with Host and the length.

    Those of the plan are added, or take their place.
    """
    return {
        "User-Agent": "torchserve-neuron-bench/1.0",
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "Cache-Control": "no-cache",
        "Content-Type": content_type,
        "X-Client": "bench",
        **plan.headers,
    }


def _encode(plan: LoadPlan, body: bytes, content_type: str) -> bytes:
    lines = [f"POST {plan.path} HTTP/1.1", f"Host: 127.0.0.1:{plan.port}"]
    lines += [f"{name}: {value}" for name, value in make_headers(plan, content_type).items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _content_length(head: bytes) -> int:
    """Return the length of the body that a head announces; raise ``ValueError`` where it announces none."""
    lowered = head.lower()
    at = lowered.find(_LENGTH)
    if at < 0:
        raise ValueError("an answer without Content-Length, which this client does not read")
    return int(lowered[at + len(_LENGTH) :].split(b"\r\n", 1)[0])


def to_json(result: LoadResult) -> dict[str, Any]:
    """Return a result as JSON can hold it; Any: numbers, texts and lists of them."""
    return {
        "seconds": result.seconds,
        "latencies": list(result.latencies),
        "statuses": dict(result.statuses),
        "answers": [
            [[base64.b64encode(body).decode(), count] for body, count in each.items()] for each in result.answers
        ],
        "cpu_seconds": result.cpu_seconds,
        "unsent": result.unsent,
    }


def from_json(value: dict[str, Any]) -> LoadResult:
    """Return the result that ``to_json`` has written."""
    answers = [Counter({base64.b64decode(body): count for body, count in each}) for each in value["answers"]]
    return LoadResult(
        seconds=value["seconds"],
        latencies=array.array("d", value["latencies"]),
        statuses=Counter(value["statuses"]),
        answers=answers,
        cpu_seconds=value["cpu_seconds"],
        unsent=value["unsent"],
    )


def main() -> int:
    """Run the plan on standard input; write its result to standard output."""
    told = json.load(sys.stdin)
    told["bodies"] = [base64.b64decode(each) for each in told["bodies"]]
    json.dump(to_json(run_load(LoadPlan(**told))), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
