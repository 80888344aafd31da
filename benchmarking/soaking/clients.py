"""Clients that survive whatever the server does: each thread has a connection that it keeps, and its own chance."""

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarking.soaking.accounting import Exchange, Ledger
from benchmarking.soaking.traffic import Known, Request, pick

TIMEOUT = 60.0  # seconds for an answer; TorchServe gives a worker 120 s, a restart takes a few
_PIECES, _PAUSE = 5, 0.15  # of a slow client: pieces, and seconds between them
_MANY = 65536


@dataclass(frozen=True)
class Address:
    """Where to send requests."""

    port: int
    timeout: float = TIMEOUT
    host: str = "127.0.0.1"


class Client:
    """One connection that is kept, and fresh ones where a request asks for one."""

    def __init__(self, address: Address, clock: Callable[[], float]) -> None:
        self._address, self._clock = address, clock
        self._kept: http.client.HTTPConnection | None = None

    def send(self, request: Request) -> Exchange:
        """Return what came of a request; never raises for what the server does."""
        began = self._clock()
        status, body, error, abandoned = 0, b"", "", False
        connection = self._connect(request)
        try:
            if request.manner.startswith("leave"):
                abandoned = True
                self._leave(connection, request)
            else:
                status, body = self._exchange(connection, request)
        except (OSError, http.client.HTTPException) as exc:
            error = f"{type(exc).__name__}: {exc}"
            if connection is self._kept:
                self.close()
        finally:
            if connection is not self._kept:
                connection.close()
        return Exchange(request.kind, request.model, began, self._clock(), status, body, error, abandoned)

    def close(self) -> None:
        """Close the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self, request: Request) -> http.client.HTTPConnection:
        if not request.fresh and self._kept is not None:
            return self._kept
        connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=self._address.timeout)
        if not request.fresh:
            self._kept = connection
        return connection

    def _exchange(self, connection: http.client.HTTPConnection, request: Request) -> tuple[int, bytes]:
        try:
            self._send(connection, request)
        except (BrokenPipeError, ConnectionResetError):
            if not request.expected.cut:
                raise
            # The server has answered before it had everything; what it said may still be there to read.
        response = connection.getresponse()
        if request.manner == "slow read":
            time.sleep(_PAUSE * _PIECES)
            return response.status, b"".join(iter(lambda: response.read(7), b""))
        return response.status, response.read()

    @staticmethod
    def _send(connection: http.client.HTTPConnection, request: Request) -> None:
        if request.manner != "slow send":
            connection.request(request.method, request.path, request.body, dict(request.headers))
            return
        _put_head(connection, request)
        step = -(-len(request.body) // _PIECES)
        for start in range(0, len(request.body), step):
            connection.send(request.body[start : start + step])
            time.sleep(_PAUSE)

    @staticmethod
    def _leave(connection: http.client.HTTPConnection, request: Request) -> None:
        if request.manner == "leave in headers":
            connection.connect()
            connection.sock.sendall(f"POST {request.path} HTTP/1.1\r\nHost: so".encode())
        elif request.manner == "leave while sending":
            _put_head(connection, request)
            connection.send(request.body[: len(request.body) // 2])
        else:
            connection.request(request.method, request.path, request.body, dict(request.headers))
        # A reset, not an orderly end: what a client that crashed leaves behind.
        if connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _put_head(connection: http.client.HTTPConnection, request: Request) -> None:
    connection.putrequest(request.method, request.path)
    for name, value in {**request.headers, "Content-Length": str(len(request.body))}.items():
        connection.putheader(name, value)
    connection.endheaders()


class Routes:
    """Which models clients may be sent to, and how many requests are on their way to each: a load balancer's table."""

    def __init__(self) -> None:
        self._models: dict[str, list[Known]] = {}
        self._flying: Counter[tuple[str, int]] = Counter()  # by model and epoch
        self._epoch = 0
        self._lock = threading.Lock()

    def put(self, known: list[Known]) -> int:
        """Send requests to a model from now on, or expect other answers of it; return the epoch that begins."""
        with self._lock:
            self._epoch += 1
            self._models[known[0].model] = known
            return self._epoch

    def withdraw(self, model: str) -> int:
        """Send no more requests to a model; those on their way go on. Return the epoch that begins."""
        with self._lock:
            self._epoch += 1
            self._models.pop(model, None)
            return self._epoch

    def flying(self, model: str, before: int) -> int:
        """Return how many requests to the model are on their way that were sent before an epoch."""
        with self._lock:
            return sum(n for (name, epoch), n in self._flying.items() if name == model and epoch < before)

    def take(self, choose: Callable[[Mapping[str, list[Known]]], Request]) -> tuple[Request, int]:
        """Choose the next request, and count it as on its way, at once; return it with its epoch."""
        with self._lock:
            request = choose(self._models)
            self._flying[request.model, self._epoch] += 1
            return request, self._epoch

    def done(self, request: Request, epoch: int) -> None:
        """Count a request as answered."""
        with self._lock:
            self._flying[request.model, epoch] -= 1
            if not self._flying[request.model, epoch]:
                del self._flying[request.model, epoch]


class Crowd:
    """Threads that send at a bounded rate until they are told to stop."""

    def __init__(
        self,
        address: Address,
        routes: Routes,
        ledger: Ledger,
        learned: Callable[[Request], Request],
        *,
        clock: Callable[[], float],
        clients: int,
        rate: float,
        seed: int,
    ) -> None:
        self._address, self._routes, self._ledger, self._learned = address, routes, ledger, learned
        self._clock, self._each = clock, rate / clients
        self._stopped = threading.Event()
        # No secret: a seed makes the same traffic again.
        chances = [random.Random(seed * 1000 + number) for number in range(clients)]  # noqa: S311
        self._threads = [threading.Thread(target=self._run, args=(chance,), name="client") for chance in chances]

    def start(self) -> None:
        """Let the clients begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client finish its request, then return."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, chance: random.Random) -> None:
        client = Client(self._address, self._clock)
        while not self._stopped.wait(chance.expovariate(self._each)):
            taken, epoch = self._routes.take(lambda models: pick(models, chance))
            try:
                request = self._learned(taken)
                self._ledger.add(client.send(request), request.expected)
            finally:
                self._routes.done(taken, epoch)
        client.close()
