"""Single requests to a server that may be anything: bounded in time and size, never redirected, never an error."""

import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from serving.errors import ServerError

_LARGEST = 512 * 1024  # bytes of an answer that are read; TorchServe's longest description has 60 KB


@dataclass(frozen=True)
class Address:
    """Where a server, or one of its ports, is."""

    scheme: str  # http or https
    host: str  # as the user gave it; named in the Host header and in TLS
    port: int
    ip: str = ""  # what the host was resolved to; empty: not yet

    @property
    def url(self) -> str:
        """Return the address in one line, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be meant."""
        try:
            return ipaddress.ip_address(self.ip or self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Answer:
    """What came back, or why nothing did."""

    status: int  # HTTP; 0 if there was no answer
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    error: str = ""  # why there is no answer
    own_ip: str = ""  # of this machine, as the server sees it

    def read_json(self) -> Any:
        """Return the body as JSON, None if it is none; Any: whatever a stranger sends."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def kind(self) -> str:
        """Return the type that TorchServe gives its errors, such as InvalidKeyException; empty for anything else."""
        content = self.read_json()
        return str(content.get("type", "")) if isinstance(content, dict) and "code" in content else ""

    @property
    def message(self) -> str:
        """Return what TorchServe says of its error; empty for anything else."""
        content = self.read_json()
        return str(content.get("message", "")) if isinstance(content, dict) else ""

    def describe(self) -> str:
        """Return the answer in some words, for a finding."""
        if self.error:
            return self.error
        server = f", from {self.headers['server']}" if "server" in self.headers else ""
        return f"{self.status}{' ' + self.kind if self.kind else ''}{server}"


def parse_address(text: str) -> Address:
    """Return the address in a URL; raise ``ServerError`` over anything but http(s)://HOST[:PORT]."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    path = parts.path.strip("/") or parts.query or parts.username
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or path:
        raise ServerError(f"{text!r} is not the address of a server; expected http://HOST:PORT or https://HOST:PORT")
    return Address(parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme])


def resolve(address: Address, *, seconds: float) -> Address:
    """Return the address with the first IP of its host that takes a connection, or the first one if none does.

    Raises ``ServerError`` if the host has no IP.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise ServerError(f"{address.host} has no address ({exc}); look at the name, or give the IP") from exc
    ips = list(dict.fromkeys(str(each[4][0]) for each in found))
    for ip in ips:
        if not connect_error(ip, address.port, seconds=seconds):
            return Address(address.scheme, address.host, address.port, ip)
    return Address(address.scheme, address.host, address.port, ips[0])


def connect_error(ip: str, port: int, *, seconds: float) -> str:
    """Return why no connection to a port can be made; empty if one can."""
    try:
        with socket.create_connection((ip, port), timeout=seconds):
            return ""
    except OSError as exc:
        return _explain(exc, seconds)


def ask(
    address: Address,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    announced: int = 0,
    seconds: float = 5.0,
) -> Answer:
    """Return the answer to one request without a body, after at most ``seconds`` for each connection and answer.

    ``announced`` is a Content-Length to name; its bytes are never sent. Redirections are not followed.
    """
    connection = http.client.HTTPConnection(address.host, address.port)
    try:
        with _open(address, seconds) as stream, _cut_after(stream, seconds):
            connection.sock = stream
            own_ip = str(stream.getsockname()[0])
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"Connection": "close", "Content-Length": str(announced), **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            # What follows the answer to an announced body is of no interest, and may never come.
            body = b"" if announced else response.read(_LARGEST)
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, body, own_ip=own_ip)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return Answer(0, error=_explain(exc, seconds))


def unverified_context() -> ssl.SSLContext:
    """Return a TLS context that takes every certificate and every version: a doctor looks, and trusts nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of old versions, which are what is looked for
        context.minimum_version = ssl.TLSVersion.TLSv1
    return context


@contextlib.contextmanager
def _open(address: Address, seconds: float) -> Iterator[socket.socket]:
    """Return a connection, in TLS for https."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.create_connection((address.ip or address.host, address.port), seconds))
        if address.scheme == "http":
            yield raw
            return
        # The handshake comes later, so that it can be cut as well.
        secure = unverified_context().wrap_socket(raw, server_hostname=address.host, do_handshake_on_connect=False)
        stack.enter_context(secure)
        with _cut_after(secure, seconds):
            secure.do_handshake()
        yield secure


@contextlib.contextmanager
def _cut_after(stream: socket.socket, seconds: float) -> Iterator[None]:
    """End the connection after ``seconds``: a socket's own time limit begins anew with each byte that drips in."""

    def cut() -> None:
        cut_off.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(stream, socket.SHUT_RDWR)  # not SSLSocket's, which takes the reader's state away

    cut_off = threading.Event()
    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as exc:
        if cut_off.is_set():
            raise TimeoutError from exc
        raise
    else:
        if cut_off.is_set():  # what a cut leaves can look like a whole answer
            raise TimeoutError
    finally:
        timer.cancel()


def _explain(exc: Exception, seconds: float) -> str:
    if isinstance(exc, TimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused"
    if isinstance(exc, ssl.SSLError):
        return f"no TLS ({exc.reason or exc})"
    if isinstance(exc, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "the connection was closed without an answer"
    if isinstance(exc, http.client.HTTPException):
        return f"an answer that is no HTTP ({type(exc).__name__})"
    return f"{type(exc).__name__}: {exc}"
