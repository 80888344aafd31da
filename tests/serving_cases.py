"""What clients send to each shipped recipe: right requests, and wrong ones that must fail alone beside them."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from tests.fakes import make_picture
from tracing.loading import SHIPPED


@dataclass(frozen=True)
class Case:
    """One request and what its answer must be."""

    name: str
    body: bytes
    content_type: str
    status: int = 200
    holds: Callable[[Any], bool] = lambda answer: True  # of the parsed answer
    accept: str = "*/*"


def as_json(value: Any) -> bytes:
    """Return a value as the body of a JSON request."""
    return json.dumps(value).encode()


def read(name: str) -> bytes:
    """Return a file of a shipped recipe."""
    return (SHIPPED / name).read_bytes()


def wrong(name: str, body: bytes, content_type: str, status: int, word: str) -> Case:
    """A request that must be refused, with a message that holds ``word``."""
    return Case(
        name,
        body,
        content_type,
        status,
        lambda answer: answer["code"] == status and word.lower() in answer["message"].lower(),
    )


def right_json(name: str, value: Any, holds: Callable[[Any], bool]) -> Case:
    """A JSON request that must be answered."""
    return Case(name, as_json(value), "application/json", 200, holds)


def wrong_json(name: str, value: Any, status: int, word: str) -> Case:
    """A JSON request that must be refused."""
    return wrong(name, as_json(value), "application/json", status, word)


def form(name: str, file: str, holds: Callable[[Any], bool], **fields: str) -> Case:
    """A multipart form with a shipped recipe's file and plain fields, as ``curl -F data=@FILE -F top_k=1`` sends it."""
    files = {"data": (file, read(file), "image/png")}
    sent = requests.Request("POST", "http://localhost", files=files, data=fields).prepare()
    assert isinstance(sent.body, bytes)
    return Case(name, sent.body, sent.headers["Content-Type"], 200, holds)


PICTURE_FAULTS = [
    wrong("no picture", b"hello", "application/octet-stream", 415, "no pictur"),
    wrong("half a picture", make_picture()[:40], "image/png", 400, "broken"),
    wrong("broken JSON", b'{"data": ', "application/json", 400, "not valid JSON"),
]
ONES = [1.0] * 16
DISTANCE = [
    right_json("equal", {"a": ONES, "b": ONES}, lambda answer: abs(answer["squared_euclidean"]) < 0.01),
    right_json(
        "opposite, twice",
        {"instances": [{"a": ONES, "b": [-1.0] * 16}] * 2},
        lambda answer: all(abs(each["cosine"] - 2) < 0.02 for each in answer["predictions"]),
    ),
    wrong_json("too short", {"a": ONES[1:], "b": ONES}, 400, "a"),
    wrong_json("no b", {"a": ONES}, 400, "b"),
    wrong_json("a text", {"a": ["x"] * 16, "b": ONES}, 400, "number"),
]
MATCHER = [
    right_json(
        "short and long",
        [{"ids": [7, 42], "features": [0.5, -1, 0, 2]}, {"ids": [7] * 16, "features": [0.5, -1, 0, 2]}],
        lambda answer: len(answer) == 2 and len(answer[0]["words"]) == 8 and -1.01 <= answer[1]["score"] <= 1.01,
    ),
    wrong_json("longer than every bucket", {"ids": [1] * 17, "features": [0, 0, 0, 0]}, 413, "16"),
    wrong_json("no whole number", {"ids": [1.5], "features": [0, 0, 0, 0]}, 400, "ids"),
    wrong_json("an unknown input", {"ids": [1], "features": [0, 0, 0, 0], "colour": [1]}, 400, "colour"),
]
TINY = [
    Case("a picture", read("tiny_red.png"), "image/png", 200, lambda answer: answer["red"] > 0.9),
    form("one label, by a field", "tiny_green.png", lambda answer: list(answer) == ["green"], top_k="1"),
    Case(
        "one label, by the header",
        read("tiny_blue.png"),
        "image/png",
        200,
        lambda answer: list(answer) == ["blue"],
        "application/json; top_k=1",
    ),
    right_json(
        "raw outputs",
        {"instances": [{"b64": b64encode(read("tiny_green.png")).decode()}], "parameters": {"form": "raw"}},
        lambda answer: answer["predictions"][0]["output"][1] == max(answer["predictions"][0]["output"]),
    ),
    wrong_json(
        "no such form", {"data": b64encode(read("tiny_red.png")).decode(), "parameters": {"form": "poem"}}, 400, "poem"
    ),
    *PICTURE_FAULTS,
]
CRAFT_SMALL = [
    Case(
        "a sign",
        read("craft_small/sign.png"),
        "image/png",
        200,
        lambda answer: len(answer["boxes"]) >= 1 and all(len(each["polygon"]) == 4 for each in answer["boxes"]),
    ),
    Case("a blank", make_picture("red", size=(300, 200)), "image/png", 200, lambda answer: answer["boxes"] == []),
    *PICTURE_FAULTS,
]
HOUSE = json.loads(read("housing/one.json"))
HOUSING = [
    right_json("one row", HOUSE, lambda answer: 100_000 < answer["median_house_value"] < 500_001),
    Case("many rows as CSV", read("housing/many.csv"), "text/csv", 200, lambda answer: len(answer) > 1),
    right_json("with gaps", json.loads(read("housing/missing.json")), lambda answer: len(answer) == 2),
    wrong_json("a text for a number", {**HOUSE, "population": "many"}, 400, "population"),
    wrong_json("an unknown category", {**HOUSE, "ocean_proximity": "MOON"}, 400, "ocean_proximity"),
    wrong(
        "not finite", read("housing/one.json").replace(b"7.3089", b"1e999"), "application/json", 400, "median_income"
    ),
    wrong_json("a column that is none", {**HOUSE, "popullation": 1}, 400, "population"),
]
MINILM = [
    Case("a text", b"The cat sat on the mat.", "text/plain", 200, lambda answer: len(answer["embedding"]) == 384),
    right_json(
        "two texts", ["one", "two words"], lambda answer: [len(each["embedding"]) for each in answer] == [384] * 2
    ),
    Case(
        "a pair by fields",
        b"seq_0=A+man+eats+food.&seq_1=A+man+is+eating+a+meal.",
        "application/x-www-form-urlencoded",
        200,
        lambda answer: answer["paraphrase"] is True and answer["similarity"] > 0.7,
    ),
    right_json(
        "another pair",
        {"seq_0": "A man eats food.", "seq_1": "The stock market fell."},
        lambda answer: answer["paraphrase"] is False,
    ),
    wrong_json("a number", {"text": 5}, 400, "text"),
    wrong("an empty text", b" ", "text/plain", 400, "text"),
    wrong("too long", b"word " * 600, "text/plain", 413, "token"),
    wrong("no UTF-8", b"\xff\xfe\xfd", "text/plain", 400, "UTF-8"),
]
BERT = [
    right_json(
        "a pair",
        {"seq_0": "The shop opens at nine.", "seq_1": "It opens at 9 a.m."},
        lambda answer: abs(sum(answer.values()) - 1) < 0.02,
    ),
    wrong_json("a list of numbers", [1, 2], 400, "text"),
]
CIFAR_LIKE = [
    Case("a cat", read("simple_cnn/cat_grey.png"), "image/png", 200, lambda answer: len(answer) == 5),
    *PICTURE_FAULTS,
]
CRAFT = [
    Case("a sign", read("craft/sign.png"), "image/png", 200, lambda answer: "boxes" in answer),
    *PICTURE_FAULTS,
]
# By recipe. Those of the second table have no weights of their own: their answers mean nothing, their form does.
# test_recipes_on_chips takes all, `make test` those that are built in seconds.
CASES: dict[str, list[Case]] = {
    "tiny": TINY,
    "distance": DISTANCE,
    "matcher": MATCHER,
    "housing": HOUSING,
    "minilm": MINILM,
    "craft_small": CRAFT_SMALL,
}
QUICK = ("tiny", "housing")
RANDOM_CASES: dict[str, list[Case]] = {
    "simple_cnn": CIFAR_LIKE,
    "resnet50": CIFAR_LIKE,
    "bert": BERT,
    "craft": CRAFT,
}
