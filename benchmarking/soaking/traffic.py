"""What the clients of a soak send: good requests with known answers, bad ones, and ways of going away."""

import base64
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarking.soaking.accounting import Expectation

LIMIT = 16 * 1024 * 1024  # bytes of a request, max_request_size of config.properties
# Of an explanation: how much each feature counts depends on how far the server came in the time it had.
EXPLAINED = ("target", "method", "score", "baseline_score")
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Known:
    """A model with a request and its right answer, from the archive's golden requests."""

    model: str
    body: bytes = field(repr=False)
    answers: tuple[Any, ...]  # JSON; more than one while a new version takes over
    tolerance: float


@dataclass(frozen=True)
class Request:
    """One request, and how its client behaves."""

    kind: str
    model: str
    path: str
    expected: Expectation
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    manner: str = "plain"  # "slow send", "slow read", "leave while sending", "leave before reading", "leave in headers"
    fresh: bool = False  # on a connection of its own


def _as_base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _make(known: Known, kind: str, body: bytes, headers: dict[str, str], **how: Any) -> Request:
    path, answers = how.pop("path", f"/predictions/{known.model}"), how.pop("answers", list(known.answers))
    expected = Expectation(body=answers, tolerance=known.tolerance, only=how.pop("only", ()))
    return Request(kind, known.model, path, expected, body, headers, **how)


def raw(known: Known, **how: Any) -> Request:
    """The body as it is; ``how`` are fields of ``Request``."""
    return _make(known, how.pop("kind", "raw"), known.body, {}, **how)


def multipart(known: Known) -> Request:
    """A form with a file."""
    head = b'--soak\r\nContent-Disposition: form-data; name="data"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=soak"}
    body = head + known.body + b"\r\n--soak--\r\n"
    return _make(known, "multipart", body, headers)


def as_json(known: Known) -> Request:
    """The file in base64, in JSON."""
    body = json.dumps({"data": _as_base64(known.body)}).encode()
    return _make(known, "json", body, _JSON)


def kserve_v1(known: Known) -> Request:
    """Two instances; both have the same answer."""
    body = json.dumps({"instances": [{"b64": _as_base64(known.body)}] * 2}).encode()
    answers = [{"predictions": [answer] * 2} for answer in known.answers]
    return _make(known, "kserve v1", body, _JSON, path=f"/v1/models/{known.model}:predict", answers=answers)


def kserve_v2(known: Known) -> Request:
    """One tensor of bytes; the right answer is learned before the first fault."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [_as_base64(known.body)]}
    body = json.dumps({"inputs": [tensor]}).encode()
    return _make(known, "kserve v2", body, _JSON, path=f"/v2/models/{known.model}/infer", answers=None)


def explanation(known: Known) -> Request:
    """What of the request the answer rests on; the right answer is learned before the first fault."""
    path = f"/explanations/{known.model}"
    return _make(known, "explanation", known.body, {}, path=path, answers=None, only=EXPLAINED)


def slow_sender(known: Known) -> Request:
    """The body in pieces, with pauses."""
    return raw(known, kind="slow sender", manner="slow send", fresh=True)


def slow_reader(known: Known) -> Request:
    """An answer that is read late and byte by byte."""
    return raw(known, kind="slow reader", manner="slow read", fresh=True)


def fresh_connection(known: Known) -> Request:
    """A connection for one request."""
    return raw(known, kind="fresh connection", fresh=True)


LEARNED = (kserve_v2, explanation)
GOOD: dict[Callable[[Known], Request], float] = {
    raw: 30,
    fresh_connection: 10,
    multipart: 10,
    as_json: 10,
    kserve_v1: 6,
    kserve_v2: 6,
    slow_sender: 2,
    slow_reader: 2,
}
LEAVING = ("leave in headers", "leave while sending", "leave before reading")


def leaving(known: Known, chance: random.Random) -> Request:
    """A client that goes away on purpose."""
    manner = chance.choice(LEAVING)
    return raw(known, kind=manner, manner=manner, fresh=True)


def bad(known: Known, chance: random.Random) -> Request:
    """A request that must be refused, with the status that it deserves."""
    body = known.body
    cut = body[: len(body) // 2]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    predict, infer = f"/predictions/{known.model}", f"/v2/models/{known.model}/infer"
    table: list[tuple[str, tuple[int, ...], str, bytes, dict[str, str]]] = [
        ("empty", (400,), predict, b"", {}),
        ("cut picture", (400,), predict, cut, {}),
        ("signature alone", (400,), predict, b"\x89PNG\r\n\x1a\n" + b"\0" * 100, {}),
        ("text", (415,), predict, b"hello", {}),
        ("broken json", (400,), predict, b'{"data": ', _JSON),
        ("broken base64", (400,), predict, b'{"data": "!!!!"}', _JSON),
        ("json null", (400,), predict, b"null", _JSON),
        ("wrong tensor", (400,), infer, json.dumps({"inputs": [tensor]}).encode(), _JSON),
        ("empty form", (400,), predict, b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}),
        ("too many instances", (413,), predict, json.dumps({"instances": ["AAAA"] * 129}).encode(), _JSON),
        ("no such model", (404,), "/predictions/nobody", body, {}),
        ("no such version", (404,), f"{predict}/99.9", body, {}),
        ("not accepted", (406,), predict, body, {"Accept": "text/csv"}),
    ]
    kind, statuses, path, content, headers = chance.choice(table)
    return Request(kind, known.model, path, Expectation(statuses), content, headers)


def huge(known: Known, chance: random.Random) -> Request:
    """A body over the handler's limit, just under TorchServe's, or over that."""
    path = f"/predictions/{known.model}"
    if chance.random() < 0.5:
        body = known.body + b"\0" * 9_000_000
        return Request("9 MB", known.model, path, Expectation((413,)), body, fresh=True)
    # TorchServe answers before it has read the body, and closes: a client may see the one or the other.
    return Request("over 16 MiB", known.model, path, Expectation((413,), cut=True), b"\0" * (LIMIT + 1000), fresh=True)


def pick(models: Mapping[str, list[Known]], chance: random.Random) -> Request:
    """Return the next request to one of the models that are being served."""
    known = chance.choice(models[chance.choice(sorted(models))])
    lot = chance.random()
    if lot < 0.16:
        return bad(known, chance)
    if lot < 0.19:
        return leaving(known, chance)
    if lot < 0.195:
        return huge(known, chance)
    if lot < 0.20:
        return explanation(known)
    return chance.choices(list(GOOD), list(GOOD.values()))[0](known)
