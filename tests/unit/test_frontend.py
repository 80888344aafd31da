"""The way between TorchServe's frontend and a worker: read and written as TorchServe does, however the bytes come."""

import logging
import random
import struct
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from handlers import frontend, frontend_sample
from handlers.frontend import Batch, Reader, encode_answers

# TorchServe leaves a file open when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
END = struct.pack("!i", -1)


class Wire:
    """A connection that gives a message in parts of at most ``step`` bytes, then closes."""

    def __init__(self, message: bytes, step: int = 1 << 30) -> None:
        self.rest, self.step, self.calls = message, step, 0

    def recv(self, size: int) -> bytes:
        self.calls += 1
        part, self.rest = self.rest[: min(size, self.step)], self.rest[min(size, self.step) :]
        return part


def pack(value: bytes | str) -> bytes:
    """Return a length and a value."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!i", len(data)) + data


def make_message(requests: Sequence[tuple[str, dict[str, str], dict[str, tuple[str, bytes]]]]) -> bytes:
    """Return the frontend's message for (id, headers, fields with type and value)."""
    parts = [b"I"]
    for identity, headers, fields in requests:
        parts += [pack(identity), *(pack(name) + pack(value) for name, value in headers.items()), END]
        parts += [pack(name) + pack(kind) + pack(value) for name, (kind, value) in fields.items()]
        parts.append(END)
    return b"".join([*parts, END])


TWO = make_message(
    [
        ("1-a", {"Accept": "*/*", "X": ""}, {"body": ("image/png", b"\x00\xff" * 40)}),
        ("2-b", {}, {"data": ("application/json", b'{"a": [1]}'), "note": ("text/plain", "é".encode())}),
    ]
)


def stock(connection: Any) -> tuple[bytes, Any]:
    """TorchServe's own reader."""
    from ts.protocol.otf_message_handler import retrieve_msg

    return retrieve_msg(connection)


@pytest.mark.parametrize("step", [1, 3, 7, 64, 1 << 20])
def test_a_batch_is_read_however_it_arrives(step: int) -> None:
    """The same rows, headers and ids, in parts of any size."""
    command, batch = Reader(Wire(TWO, step), stock).read()
    assert (command, batch.ids) == (b"I", ["1-a", "2-b"])
    assert batch.rows == [{"body": bytearray(b"\x00\xff" * 40)}, {"data": {"a": [1]}, "note": "é"}]
    assert batch.headers[0] == {"body": {"content-type": "image/png"}, "accept": "*/*"}


def test_a_whole_batch_takes_one_call() -> None:
    """TorchServe's reader makes one for each length and each value."""
    ours, theirs = Wire(TWO), Wire(TWO)
    Reader(ours, stock).read()
    stock(theirs)
    assert ours.calls == 1
    assert theirs.calls > 30


def test_messages_that_follow_are_kept_apart() -> None:
    """What has come too early is held for the next message."""
    reader = Reader(Wire(TWO + TWO + make_message([])), stock)
    assert [reader.read()[1].ids for _ in range(3)] == [["1-a", "2-b"], ["1-a", "2-b"], []]


def test_bodies_stay_bytes_where_torchserve_is_told_not_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """decode_input_request=false, which the kit's config.properties sets, reaches workers as a variable."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    batch = Reader(Wire(TWO), stock).read()[1]
    assert batch.rows[1] == {"data": bytearray(b'{"a": [1]}'), "note": bytearray("é".encode())}


def test_a_large_body_is_read_in_large_parts() -> None:
    """Six megabytes in a hundred calls or so, not in thousands."""
    wire = Wire(make_message([("1", {}, {"body": ("", bytes(6_000_000))})]))
    assert len(Reader(wire, stock).read()[1].rows[0]["body"]) == 6_000_000
    assert wire.calls < 100


def test_other_commands_are_torchserves() -> None:
    """A command to load a model is read by TorchServe's reader, from its first byte, and what follows by ours."""
    load = (
        b"L"
        + pack("tiny")
        + pack("/x")
        + struct.pack("!i", 4)
        + pack("h.py")
        + struct.pack("!i", -1)
        + pack("")
        + b"\x01"
    )
    reader = Reader(Wire(load + TWO), stock)
    command, message = reader.read()
    assert (command, bytes(message["modelName"]), message["batchSize"]) == (b"L", b"tiny", 4)
    assert reader.read()[1].ids == ["1-a", "2-b"]


@pytest.mark.parametrize(
    "message",
    [
        b"I" + struct.pack("!i", -7),
        b"I" + pack("1") + pack("name") + END + END + END + END,
        b"I" + pack(b"\xff\xfe") + END + END + END,
    ],
    ids=["negative length", "header without value", "id that is no text"],
)
def test_what_is_no_batch_goes_to_torchserve_from_its_start(message: bytes) -> None:
    """The stock reader sees every byte of a message that ours does not take."""
    seen = []

    def note(connection: Any) -> tuple[bytes, Any]:
        seen.append(connection.recv(1 << 20))
        return b"?", None

    assert Reader(Wire(message), note).read() == (b"?", None)
    assert seen == [message]


@pytest.mark.parametrize("step", [1, 50, 1 << 20])
def test_a_message_that_turns_out_to_be_none_is_handed_over_whole(step: int) -> None:
    """Also what was read of it before, in whatever parts it came."""
    message = TWO[: -len(END)] + pack("3") + struct.pack("!i", -7)
    wire = Wire(message, step)

    def take_all(connection: Any) -> tuple[bytes, Any]:
        return b"?", b"".join(iter(lambda: connection.recv(1 << 20), b""))

    assert Reader(wire, take_all).read() == (b"?", message)


@pytest.mark.parametrize("message", [b"", TWO[:20]], ids=["between messages", "within one"])
def test_a_closed_connection_ends_the_process_as_torchserve_does(message: bytes) -> None:
    """The frontend is gone: so is the worker, with status 0."""
    with pytest.raises(SystemExit) as caught:
        Reader(Wire(message, 5), stock).read()
    assert caught.value.code == 0


def test_random_batches_are_read_as_torchserve_reads_them() -> None:
    """A hundred batches of random shapes, in random parts: rows, headers and ids equal those of the stock way."""
    from ts.service import Service

    chance = random.Random(7)
    for _ in range(100):
        requests = [_random_request(chance) for _ in range(chance.randrange(5))]
        message = make_message(requests)
        batch = Reader(Wire(message, chance.choice([1, 13, 1000, 1 << 20])), stock).read()[1]
        headers, rows, ids = Service.retrieve_data_for_inference(stock(Wire(message))[1])
        assert (batch.rows, batch.ids) == (rows, list(ids.values()))
        assert batch.headers == [frontend_sample.pick_headers(each.get_request_properties()) for each in headers]


def _random_request(chance: random.Random) -> tuple[str, dict[str, str], dict[str, tuple[str, bytes]]]:
    def text(most: int) -> str:
        return "".join(chance.choice("aä ,:|€0\n") for _ in range(chance.randrange(most)))

    kinds = ["", "image/png", "application/json", "text/plain; charset=x", "application/json; charset=utf-8"]
    values = [b"", b'{"a": "\xc3\xa4"}', b"{broken", b"\xff\xfe", chance.randbytes(chance.randrange(300))]
    known = ["Accept", "explain", "Content-Type", "X-REQUEST-START", "describe"]
    headers = {chance.choice([*known, text(9), text(9)]): text(30) for _ in range(chance.randrange(6))}
    fields = {text(6) or "body": (chance.choice(kinds), chance.choice(values)) for _ in range(chance.randrange(3))}
    return text(40), headers, fields


def test_answers_are_written_as_torchserve_writes_them() -> None:
    """Status, reason, headers, content type and body of each request, byte for byte."""
    from ts.context import Context, RequestProcessor
    from ts.protocol.otf_message_handler import create_predict_response

    batch = Batch(["1", "zwei"], [{}, {}], [{}, {}])
    context = Context("m", "", {}, 2, None, "")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "application/json")
    context.set_response_header(0, "X-Ä", "ö")
    context.set_response_status(415, "Unsupported", 1)
    answers = [b"\xff{}", b""]
    expected = create_predict_response(answers, {0: "1", 1: "zwei"}, "Prediction success", 200, context=context)
    told = [(200, "", {"content-type": "application/json", "X-Ä": "ö"}), (415, "Unsupported", {})]
    assert encode_answers(answers, batch, told) == bytes(expected)


def test_both_ways_agree_on_the_installed_torchserve() -> None:
    """The self-test that decides at each start."""
    import ts.protocol.otf_message_handler as protocol
    import ts.service as service

    assert frontend_sample.agree(protocol, service)


@pytest.mark.parametrize("broken", ["_retrieve_int", "_retrieve_input_data"])
def test_another_wire_format_is_noticed(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """A release that reads something else leaves TorchServe's own way in place."""
    import ts
    import ts.protocol.otf_message_handler as protocol
    import ts.service

    replaced = {"_retrieve_int": lambda connection: int.from_bytes(connection.recv(4), "little", signed=True)}
    replaced["_retrieve_input_data"] = lambda connection: None
    monkeypatch.setattr(protocol, broken, replaced[broken])
    monkeypatch.setattr(sys.modules["__main__"], "retrieve_msg", protocol.retrieve_msg, raising=False)
    monkeypatch.setattr(ts, "__version__", "0.12.0", raising=False)
    found = frontend.install()
    assert found.startswith("TorchServe's own: ")
    assert sys.modules["__main__"].retrieve_msg is protocol.retrieve_msg  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("variables", "release", "said"),
    [
        ({frontend.OFF_VARIABLE: "1"}, "0.12.0", "is set"),
        ({"WORLD_SIZE": "2"}, "0.12.0", "several processes"),
        ({}, "0.13.0", "release 0.13.0 was not tried"),
    ],
)
def test_torchserves_own_way_stays(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], release: str, said: str
) -> None:
    """Where it is asked for, and where ours was not tried."""
    import ts
    import ts.protocol.otf_message_handler as protocol
    import ts.service

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ts, "__version__", release, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "retrieve_msg", protocol.retrieve_msg, raising=False)
    assert said in frontend.install()


def test_outside_a_worker_nothing_is_taken_over() -> None:
    """In a program that is no worker of TorchServe."""
    assert "no worker of TorchServe" in frontend.install()


class Handling:
    """A service of TorchServe's with a handler that does as it is told."""

    def __init__(self, answer: Any) -> None:
        from ts.context import Context

        class Metrics:
            request_ids: Any = None

        self.context = Context("m", "", {}, 2, None, "", metrics=Metrics())
        self._answer = answer

    def _entry_point(self, rows: Any, context: Any) -> Any:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ([b"a", b"b"], 200, b"Prediction success"),
        ([b"a"], 503, b"number of batch response mismatched"),
        (MemoryError(), 507, b"Out of resources"),
        (RuntimeError("x"), 503, b"Prediction failed"),
    ],
)
def test_a_handlers_failure_is_told_as_torchserve_tells_it(
    caplog: pytest.LogCaptureFixture, answer: Any, code: int, message: bytes
) -> None:
    """The same codes and words."""
    caplog.set_level(logging.CRITICAL)
    batch = Batch(["1", "2"], [{}, {}], [{"body": b""}, {"body": b""}])
    sent = bytes(frontend._predict(Handling(answer), batch))
    assert sent.startswith(struct.pack("!i", code) + pack(message))
