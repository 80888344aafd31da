"""What a server lets a client cost it, and where it lets itself be sent: bodies, slow clients, gRPC, foreign URLs."""

import contextlib
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator

from serving.exposure_asking import Address, connect_error, unverified_context
from serving.exposure_findings import ERROR, OK, WARNING, Finding, Look
from serving.exposure_routes import may_register

_BIG = 2**30  # bytes; no request for a prediction has so many
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # RFC 9113, section 3.4: empty settings
_SETTINGS = 4  # type of the frame that a server of HTTP/2 answers first
_STEP = 0.5  # seconds between two bytes of a slow client


def look_at_bodies(look: Look) -> Finding:
    """Return whether a body of 1 GiB is refused when it is announced; not one byte of it is sent."""
    route = f"/predictions/{look.model or look.nobody}"
    answer = look.ask(look.server, "POST", route, key=look.keys.inference, announced=_BIG)
    asked = f"POST {look.server.url}{route} that announces 1 GiB and sends nothing"
    if answer.status:
        return Finding(what="big bodies", level=OK, asked=asked, found=answer.describe(), meaning="refused at once")
    level = look.worse_beyond(look.server)
    closed = "closed" in answer.error
    return Finding(
        what="big bodies",
        level=OK if closed else level,
        asked=asked,
        found=answer.error,
        meaning="refused at once" if closed else "it waits for the body, which TorchServe keeps in memory whole",
        advice="" if closed else "set max_request_size, and a limit at the reverse proxy",
    )


def look_at_slow_clients(look: Look) -> Finding:
    """Return whether one client that sends a byte now and then is cut off; for as long as ``slow_seconds``."""
    asked = f"one request to {look.server.url} that comes byte by byte, for {look.slow_seconds:g} s"
    begun = time.monotonic()
    try:
        with _connect(look.server, look.seconds) as stream:
            ended = _drip(stream, look.slow_seconds)
    except OSError as exc:
        return Finding(
            what="slow clients", level=WARNING, asked=asked, found=f"no connection: {exc}", advice="look again"
        )
    if ended:
        found = f"cut off after {time.monotonic() - begun:.0f} s"
        return Finding(what="slow clients", level=OK, asked=asked, found=found)
    return Finding(
        what="slow clients",
        level=look.worse_beyond(look.server, here=OK, beyond=WARNING),
        asked=asked,
        found="still waited for",
        meaning="a few hundred such connections keep others out, at no cost to who opens them",
        advice="" if look.server.is_loopback else "let a reverse proxy with a header time limit take the connections",
    )


def look_at_grpc(look: Look) -> list[Finding]:
    """Return whether gRPC is reached on the server's host: inference, and management."""
    found = []
    for what, port in zip(("gRPC inference", "gRPC management"), look.grpc, strict=True):
        address = Address("http", look.server.host, port, look.server.ip)
        state = _speak_http2(address, look.seconds)
        level = OK
        if state == "speaks HTTP/2":
            level = look.worse_beyond(address, here=OK if what == "gRPC inference" else WARNING)
        elif not state.startswith("no connection"):
            level = look.worse_beyond(address, here=OK, beyond=WARNING)
        found.append(
            Finding(
                what=what,
                level=level,
                asked=f"a connection to {address.host}:{port} with HTTP/2's first bytes",
                found=state,
                meaning="what REST does is done here as well; before 0.11.1 without a token" if level != OK else "",
                advice=f"bind grpc_{what.split()[1]}_address to 127.0.0.1 (0.11.0 or newer)" if level != OK else "",
            )
        )
    return found


def look_at_foreign_urls(look: Look, base: Address) -> list[Finding]:
    """Return whether the server fetches a URL that it is given, for each route that registers.

    The URL is the doctor's own, which answers 404: nothing is registered.
    """
    found = []
    for route in ("/models", "/workflows"):
        if not may_register(look, base, route, look.keys.management)[0]:
            continue
        found.append(_look_at_foreign_url(look, base, route))
    return found


def _look_at_foreign_url(look: Look, base: Address, route: str) -> Finding:
    peer = look.ask(base, "GET", route, key=look.keys.management).own_ip or "127.0.0.1"
    with _listen(peer) as (url, requested):
        target = f"{url}/{look.nobody}.mar"
        answer = look.ask(base, "POST", f"{route}?url={target}", key=look.keys.management)
        fetched = bool(requested)
    asked = f"POST {base.url}{route} with a URL of this doctor's, {target}, where nothing is"
    if fetched or answer.kind == "DownloadArchiveException":
        meaning = "it fetches what it is told to: requests in the server's name, and code of a stranger run by it"
        advice = "set allowed_urls=none (names of files in the store still load), and use_env_allowed_urls=false"
        found = f"the URL was {'fetched' if fetched else 'tried'}; {answer.describe()}"
        return Finding(
            what=f"foreign URLs: {route}", level=ERROR, asked=asked, found=found, meaning=meaning, advice=advice
        )
    found = f"not fetched; {answer.describe()}"
    return Finding(what=f"foreign URLs: {route}", level=OK, asked=asked, found=found, meaning="allowed_urls is closed")


@contextlib.contextmanager
def _listen(ip: str) -> Iterator[tuple[str, list[str]]]:
    """Return the URL of a server on a free port that answers 404 to everything, and the paths that were asked for."""
    requested: list[str] = []

    class Nothing(http.server.BaseHTTPRequestHandler):
        timeout = 5  # seconds for a request to arrive

        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815  the base class looks for this name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Print nothing."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in ip else socket.AF_INET

    with Server((ip, 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://{f'[{ip}]' if ':' in ip else ip}:{server.server_address[1]}", requested
        finally:
            server.shutdown()
            thread.join()


def _drip(stream: socket.socket, seconds: float) -> bool:
    """Send a request that never ends, and return whether the server ended it first."""
    deadline = time.monotonic() + seconds
    stream.settimeout(_STEP)
    try:
        stream.sendall(b"GET /ping HTTP/1.1\r\nX-Slow: ")
        while time.monotonic() < deadline:
            stream.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                stream.recv(1)
                return True  # an answer, or the end of the connection
    except OSError:
        return True
    return False


def _speak_http2(address: Address, seconds: float) -> str:
    error = connect_error(address.ip or address.host, address.port, seconds=seconds)
    if error:
        return f"no connection: {error}"
    try:
        with socket.create_connection((address.ip or address.host, address.port), timeout=seconds) as stream:
            stream.sendall(_PREFACE)
            head = stream.recv(9)
    except OSError:
        return "open, and says nothing"
    return "speaks HTTP/2" if len(head) > 3 and head[3] == _SETTINGS else "open, and speaks something else"


@contextlib.contextmanager
def _connect(address: Address, seconds: float) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        raw = socket.create_connection((address.ip or address.host, address.port), timeout=seconds)
        stream: socket.socket = stack.enter_context(raw)
        if address.scheme == "https":
            context: ssl.SSLContext = unverified_context()
            stream = stack.enter_context(context.wrap_socket(raw, server_hostname=address.host))
        yield stream
