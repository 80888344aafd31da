"""Requests to a server of ours, and the curl line that repeats one."""

import json
import shlex
from pathlib import Path

import pytest

from handlers.artifact import Golden
from serving.requesting import Client, Reply, curl_line

PICTURE = Golden("a cat.png", "golden/0-a cat.png", "image/png", {})


def write_keys(folder: Path) -> None:
    """Write TorchServe's file of keys."""
    keys = {kind: {"key": f"key-of-{kind}"} for kind in ("inference", "management", "API")}
    (folder / "key_file.json").write_text(json.dumps(keys))


def test_curl_line_survives_blanks_and_quotes(tmp_path: Path) -> None:
    """The shell reads the line back as the words that were meant."""
    file = tmp_path / "it's a cat.png"
    words = shlex.split(curl_line(Client(8080, tmp_path), "tiny", PICTURE, file))
    assert words == ["curl", "http://127.0.0.1:8080/predictions/tiny", "-T", str(file)]


def test_curl_line_says_that_json_is_json(tmp_path: Path) -> None:
    """A JSON request goes with its type; curl would not send one."""
    golden = Golden("a.json", "golden/0-a.json", "application/json", {})
    assert "'Content-Type: application/json'" in curl_line(Client(8080, tmp_path), "tiny", golden, tmp_path)


def test_curl_line_has_the_token(tmp_path: Path) -> None:
    """With tokens on, the line works as it is printed."""
    write_keys(tmp_path)
    assert "-H 'Authorization: Bearer key-of-inference'" in curl_line(Client(8080, tmp_path), "tiny", PICTURE, tmp_path)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"inference": 1}'])
def test_no_header_without_a_whole_key_file(tmp_path: Path, content: str | None) -> None:
    """A server without tokens, or one that is still writing them, gets no header."""
    if content is not None:
        (tmp_path / "key_file.json").write_text(content)
    assert Client(8080, tmp_path).authorization("inference") == {}


def test_a_dead_server_gives_the_reason_instead_of_an_error(tmp_path: Path) -> None:
    """No answer is an answer too, with the reason as its text."""
    reply = Client(1, tmp_path).predict("tiny", b"", "image/png", timeout=1)
    assert reply.status == 0
    assert "refused" in reply.text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"code": 503, "type": "NoCores", "message": "all taken"}', ("NoCores", "all taken")),
        ("  plain words ", ("", "plain words")),
        ('["a", "list"]', ("", '["a", "list"]')),
        ("", ("", "")),
    ],
)
def test_reads_errors_of_any_form(text: str, read: tuple[str, str]) -> None:
    """A JSON error gives type and message, anything else its text."""
    assert Reply(503, text).read_error() == read
