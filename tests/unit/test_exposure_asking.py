"""Single questions to listeners on free ports: addresses, answers in time, and keys that stay where they are safe."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.errors import ServerError
from serving.exposure import ERROR, WARNING
from serving.exposure_asking import Address, ask, parse_address, resolve
from serving.exposure_findings import Keys, Look
from serving.exposure_look import prepare, read_keys
from serving.exposure_routes import look_at_predictions
from tests.exposed import answering, drip, hang, listening, outside_address, seen

REFUSED = '{"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}'


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://example.com/", "https://example.com:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_reads_addresses(text: str, url: str) -> None:
    """With and without a scheme, a port or brackets."""
    assert parse_address(text).url == url


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "http://", "http://a:99999", "http://a:x", "http://u:p@a", "http://a/b"]
)
def test_refuses_what_is_no_address(text: str) -> None:
    """The message says what was given and what is expected."""
    with pytest.raises(ServerError, match="expected http://HOST:PORT"):
        parse_address(text)


def test_a_host_without_an_address_is_an_error() -> None:
    """The top-level domain "invalid" has no hosts (RFC 6761)."""
    with pytest.raises(ServerError, match=r"nobody\.invalid has no address"):
        resolve(parse_address("http://nobody.invalid"), seconds=1)


@pytest.mark.parametrize(("ip", "loopback"), [("127.8.9.1", True), ("::1", True), ("192.0.2.1", False)])
def test_knows_the_loopback(ip: str, loopback: bool) -> None:
    """The whole network 127/8 and ::1 stay on this machine."""
    assert Address("http", "name", 80, ip).is_loopback is loopback


@pytest.mark.parametrize(
    ("talk", "found"),
    [
        (hang, "no answer within 0.5 s"),
        (drip, "no answer within 0.5 s"),
        (lambda connection: connection.sendall(b"220 mail\r\n"), "no HTTP"),
        (lambda connection: None, "closed without an answer"),
    ],
)
def test_every_answer_comes_in_time(talk: Callable[[socket.socket], None], found: str) -> None:
    """A server that hangs, drips, speaks otherwise or hangs up is told so, soon, with status 0."""
    with listening(talk) as port:
        begun = time.monotonic()
        answer = ask(Address("http", "127.0.0.1", port), "GET", "/", seconds=0.5)
        assert (answer.status, found in answer.error) == (0, True), answer
        assert time.monotonic() - begun < 3


def test_a_redirection_is_not_followed() -> None:
    """Whoever is asked for does not choose whom the doctor asks next."""
    with answering({"GET /ping": (302, "")}) as look:
        assert look.ask(look.server, "GET", "/ping").status == 302
    assert [path for _, path, _ in seen] == ["/ping"]


def test_reads_torchserves_keys(tmp_path: Path) -> None:
    """key_file.json has one for each port."""
    keys = {name: {"key": name.upper(), "expiration time": "x"} for name in ("inference", "management", "API")}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    assert read_keys(tmp_path / "key_file.json") == Keys(inference="INFERENCE", management="MANAGEMENT")


def test_reads_a_key_alone(tmp_path: Path) -> None:
    """Of a guard, say; it is shown in no repr."""
    (tmp_path / "key").write_text("s3cret\n")
    assert read_keys(tmp_path / "key") == Keys(inference="s3cret", management="s3cret")
    assert "s3cret" not in repr(read_keys(tmp_path / "key"))


@pytest.mark.parametrize("content", [b"", b"two words", b'{"inference": 1}', b"\xff\xfe"])
def test_refuses_a_file_without_a_key(tmp_path: Path, content: bytes) -> None:
    """The message says what was expected."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ServerError, match=r"expected TorchServe's key_file\.json"):
        read_keys(tmp_path / "key")


def test_a_key_is_never_sent_in_clear_beyond_this_machine() -> None:
    """The server wants one over plain http: an error, and the key stays here."""
    with answering({"POST /predictions": (400, REFUSED)}, ip=outside_address()) as look:
        finding = look_at_predictions(Look(**{**vars(look), "keys": Keys(inference="s3cret")}))
    assert (finding.level, "in clear" in finding.meaning) == (ERROR, True)
    assert all("Authorization" not in headers for _, _, headers in seen)


def test_a_key_that_is_refused_is_a_warning() -> None:
    """It is tried on the loopback address."""
    with answering({"POST /predictions": (400, REFUSED)}) as look:
        finding = look_at_predictions(Look(**{**vars(look), "keys": Keys(inference="old")}))
    assert (finding.level, finding.meaning) == (WARNING, "your key is refused")
    assert seen[-1][2]["Authorization"] == "Bearer old"


def test_ports_that_are_not_given_lie_beside_the_server() -> None:
    """On this machine those of the kit; elsewhere those that TorchServe is shipped with as well."""
    assert [each.port for each in prepare("http://127.0.0.1:20000", seconds=1).management] == [20001]
    elsewhere = prepare(f"http://{outside_address()}:20000", seconds=1)
    assert [each.port for each in elsewhere.metrics] == [20002, 8082]
