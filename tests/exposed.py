"""Servers for the doctor to look at, real ones that answer as they are told, and what it finds of them."""

import contextlib
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from serving.exposure import Finding, examine_server
from serving.exposure_asking import Address
from serving.exposure_findings import Look
from serving.exposure_local import own_addresses
from serving.exposure_look import prepare
from tests.ports import find_free_ports

Answers = Mapping[str, tuple[int, str]]  # by method and path; everything else gets a 404 with an HTML page
seen: list[tuple[str, str, dict[str, str]]] = []  # what the last ``answering`` server got: method, path, headers


def look(url: str, **options: Any) -> dict[str, Finding]:
    """Return the findings about a server, by what was looked at without ports; gRPC is looked for where nothing is."""
    closed = find_free_ports(2)
    prepared = prepare(url, **{"grpc": (closed[0], closed[1]), "seconds": 4, "slow_seconds": 1, **options})
    names = {f" :{each.port}": "" for each in (*prepared.management, *prepared.metrics)}
    found = {}
    for finding in examine_server(prepared):
        name = finding.what
        for port, nothing in names.items():
            name = name.replace(port, nothing)
        found[name] = finding
    return found


@contextlib.contextmanager
def answering(answers: Answers, *, ip: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Iterator[Look]:
    """Serve fixed answers, in TLS with a context, and return the look at that server; what it got is in ``seen``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5

        def handle_any(self) -> None:
            seen.append((self.command, self.path, dict(self.headers)))
            found = (answers.get(f"{self.command} {path}") for path in (self.path, self.path.rpartition("/")[0]))
            status, body = next((each for each in found if each), (404, "<html>not found</html>"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_PUT = do_OPTIONS = handle_any

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Print nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, address: object) -> None:
            """Print nothing of those who hang up."""

    seen.clear()
    with Server((ip, 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield look_at(server.server_address[1], ip=ip, scheme="http" if context is None else "https")
        server.shutdown()
        thread.join()


def look_at(port: int, *, ip: str = "127.0.0.1", scheme: str = "http", **options: object) -> Look:
    """Return a look that goes nowhere but to one port: nothing listens on the others."""
    server = Address(scheme, ip, port, ip)
    closed = find_free_ports(2)
    none = (Address("http", "127.0.0.1", closed[0], "127.0.0.1"),)
    defaults: dict[str, object] = {"seconds": 1.0, "slow_seconds": 1.0, "grpc": (closed[0], closed[1])}
    return Look(server=server, management=none, metrics=none, **{**defaults, **options})  # type: ignore[arg-type]


@contextlib.contextmanager
def listening(talk: Callable[[socket.socket], None], *, ip: str = "127.0.0.1") -> Iterator[int]:
    """Return the port of a listener that talks to each connection in its own way, in a thread for each."""
    with socket.create_server((ip, 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=talk_to, args=(connection,), daemon=True).start()

        def talk_to(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                talk(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def hang(connection: socket.socket) -> None:
    """Read, and never answer."""
    while connection.recv(1000):
        pass


def drip(connection: socket.socket) -> None:
    """Send an answer that never ends, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.05)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """Return the findings by what was looked at, none twice."""
    named = {finding.what: finding for finding in findings}
    assert len(named) == len(findings)
    return named


def outside_address() -> str:
    """Return an IPv4 address of this machine that is not the loopback, or skip the test."""
    found = [each for each in own_addresses() if ":" not in each]
    if not found:
        pytest.skip("this machine has the loopback address only")
    return found[0]
