"""The guard's configuration in a real nginx, before a small upstream: what is open, what is closed, what is cut."""

import contextlib
import http.client
import http.server
import json
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.entrypoints import make_environment

from entrypoint import guarding  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.faults import Fault  # isort: skip
from entrypoint.settings import Settings, read_settings  # isort: skip
from tests.ports import find_free_ports

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed (Debian: nginx-light)"
)
TOKENS = ("0123456789abcdefABCDEF", "second-token_~+/of.23==")
KNOWN = {"Authorization": f"Bearer {TOKENS[0]}"}


class _Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what arrived: path, headers, length of the body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "slow" in self.path:
            time.sleep(1.0)
        told = {"path": self.path, "headers": dict(self.headers), "length": len(body)}
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def log_message(self, *arguments: Any) -> None:
        pass

    def address_string(self) -> str:
        return "socket"


class _Upstream(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def _run_guard(folder: Path, **settings: object) -> Iterator[tuple[Settings, "subprocess.Popen[bytes]"]]:
    ports = find_free_ports(3)
    environment = make_environment(folder, folder, ports, guard=1, **settings)
    chosen = read_settings(environment)
    (folder / "run").mkdir()
    upstream = folder / "run" / "up.sock"
    with _Upstream(str(upstream), _Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        command = guarding.prepare_guard(chosen, ["tiny", "two.b-2"], upstream)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            servers.wait_for(lambda: _listens(ports[0]), "nginx", seconds=10, log=(folder / "log").read_text)
            yield chosen, process
        finally:
            process.terminate()
            process.wait(10)
            server.shutdown()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _ask(port: int, path: str, *, method: str = "POST", body: bytes = b"x", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content.startswith(b"{") else content
    finally:
        connection.close()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A guard with two tokens and short limits."""
    folder = tmp_path_factory.mktemp("guard")
    tokens = folder / "tokens"
    tokens.write_text("# clients\n" + "\n".join(TOKENS) + "\n")
    with _run_guard(folder, token_file=tokens, max_request="4k", client_seconds=1) as (settings, _):
        yield settings.port


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/predictions/tiny",
        "/predictions/tiny/1.0?top_k=3",
        "/explanations/two.b-2",
        "/v1/models/tiny:predict",
        "/v2/models/tiny/infer",
        "/v2/models/tiny/versions/1.0/infer",
    ],
)
def test_predictions_of_served_models_pass_as_they_were_sent(port: int, path: str) -> None:
    """The open paths reach TorchServe with the client's token taken away."""
    status, told = _ask(port, path, **KNOWN)
    assert (status, told["path"], told["length"]) == (200, path, 1)
    assert "Authorization" not in told["headers"]


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/models",
        "/models/tiny",
        "/metrics",
        "/workflows",
        "/wfpredict/tiny",
        "/api-description",
        "/token?type=inference",
        "/predictions",
        "/predictions/other",
        "/predictions/twoXb-2",
        "/predictions/../models",
        "/predictions/tiny/../../models",
        "/predictions/%2e%2e/models",
        "/predictions/tiny/%2e%2e",
        "//models",
        "//predictions/tiny",
        "/predictions//tiny",
        "/predictions/x%2f..",
        "/predictions/tiny%2f..%2fmodels",
        "/predictions/tiny/1.0/x",
        "/models/../predictions/tiny",
        "/./predictions/tiny",
        "/PREDICTIONS/tiny",
        "/v1/models/tiny",
        "/v2/models/tiny",
        "/v2/repository/index",
        "/ping/../models",
    ],
)
def test_everything_else_is_closed(port: int, path: str) -> None:
    """404 in JSON, with a right token, whatever is done to the path."""
    assert _ask(port, path, **KNOWN) == (404, {"code": 404, "type": "NotFound", "message": "no model is served here"})


@needs_nginx
def test_an_encoded_zero_is_a_broken_request(port: int) -> None:
    """nginx refuses it before it looks at anything else."""
    assert _ask(port, "/predictions/tiny%00", **KNOWN)[0] == 400


@needs_nginx
@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f"Bearer {TOKENS[0]}", 200),
        (f"bearer {TOKENS[1]}", 200),
        ("", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKENS[0]}x", 401),
        (f"Bearer {TOKENS[0][:-1]}", 401),
        (f"Bearer {TOKENS[0].lower()}", 401),
        (f"Bearer {TOKENS[1].replace('.', 'x')}", 401),
        (f"Basic {TOKENS[0]}", 401),
    ],
)
def test_one_of_the_tokens_is_wanted_exactly(port: int, value: str, status: int) -> None:
    """Any of the file's tokens is taken, letter for letter; all else is 401."""
    assert _ask(port, "/predictions/tiny", Authorization=value)[0] == status


@needs_nginx
def test_closed_paths_say_nothing_to_strangers(port: int) -> None:
    """Without a token one cannot find out which models there are."""
    assert _ask(port, "/predictions/other") == _ask(port, "/predictions/tiny")


@needs_nginx
def test_the_probe_needs_no_token(port: int) -> None:
    """A load balancer asks /ping."""
    assert _ask(port, "/ping", method="GET")[0] == 200


@needs_nginx
def test_the_arrival_is_passed_on(port: int) -> None:
    """X-Request-Start is the time now, in seconds with milliseconds; one that a client sends is replaced."""
    _, told = _ask(port, "/predictions/tiny", **KNOWN, **{"X-Request-Start": "t=1"})
    assert abs(float(told["headers"]["X-Request-Start"].removeprefix("t=")) - time.time()) < 5


@needs_nginx
def test_a_request_that_is_too_large_is_refused_in_json(port: int) -> None:
    """413 with the limit, and nothing reaches TorchServe."""
    status, told = _ask(port, "/predictions/tiny", body=b"x" * 5000, **KNOWN)
    assert (status, told["type"], "4096" in told["message"]) == (413, "TooLarge", True)


@needs_nginx
@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(port: int, method: str) -> None:
    """Predictions are asked with GET, POST or PUT."""
    assert _ask(port, "/predictions/tiny", method=method, **KNOWN)[0] == 405


@needs_nginx
def test_a_client_that_stops_sending_is_cut(port: int) -> None:
    """After TSN_CLIENT_SECONDS without a byte the connection is closed, half a request or not."""
    head = (
        f"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS[0]}\r\nContent-Length: 9\r\n\r\nx"
    )
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(head.encode())
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass
    assert 0.5 < time.monotonic() - began < 6


@needs_nginx
def test_a_guard_that_is_told_to_stop_finishes_what_it_has(tmp_path: Path) -> None:
    """After SIGQUIT a request in work is answered, a new connection is refused, and the status is 0."""
    with _run_guard(tmp_path) as (settings, process):
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(_ask(settings.port, "/predictions/tiny?slow")[0]))
        asking.start()
        time.sleep(0.4)
        process.send_signal(signal.SIGQUIT)
        servers.wait_for(lambda: not _listens(settings.port), "the socket closed", seconds=3)
        asking.join()
        assert (answers, process.wait(10)) == ([200], 0)


@needs_nginx
@pytest.mark.parametrize(("version", "works"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
def test_tls_is_1_2_or_1_3(tmp_path: Path, version: str, works: bool) -> None:
    """Older versions end in the handshake."""
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run([*openssl, *files], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(tmp_path / "certificate"))
    context.check_hostname = False
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning) if version == "TLSv1_1" else contextlib.nullcontext():
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    certificate = {"tls_certificate": tmp_path / "certificate", "tls_key": tmp_path / "key"}
    expected = contextlib.nullcontext() if works else pytest.raises(ssl.SSLError)
    with _run_guard(tmp_path, **certificate) as (settings, _), expected:  # noqa: SIM117  the port is known inside
        with socket.create_connection(("127.0.0.1", settings.port), 10) as plain, context.wrap_socket(plain) as client:
            client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("short\n", "token 1 in .* is no bearer token of 16 or more"),
        (f"{TOKENS[0]}\nwith a blank in it\n", "token 2 in"),
        ('"; } evil { "aaaaaaaaaaaa\n', "token 1 in"),
        ("# nothing\n\n", "holds no token"),
    ],
)
def test_a_token_file_is_checked(tmp_path: Path, content: str, message: str) -> None:
    """What could be guessed, or would end up as nginx's own words, is refused, without a token in the message."""
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(Fault, match=message) as caught:
        guarding.read_tokens(file)
    assert "blank" not in str(caught.value)


def test_the_configuration_is_nobody_elses(tmp_path: Path) -> None:
    """It holds the tokens: mode 0600."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    settings = read_settings(make_environment(tmp_path, tmp_path, [1, 2, 3], guard=1))
    guarding.prepare_guard(settings, ["tiny"], tmp_path / "socket")
    assert (tmp_path / "run" / "guard" / "nginx.conf").stat().st_mode & 0o777 == 0o600
