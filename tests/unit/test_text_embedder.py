"""The text embedder: settings, inputs, answers in each form."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError, NotAcceptable, TooLarge
from handlers.payloads import Payload
from handlers.text_embedder import TextEmbedder
from tracing.loading import SHIPPED


def specs(length, batch=1):
    """The inputs of a sentence encoder."""
    return [TensorSpec(name, "int64", (batch, length)) for name in ("input_ids", "attention_mask")]


@pytest.fixture
def make(tmp_path):
    """Make an embedder for 8 and 16 tokens, with settings."""
    shutil.copy(SHIPPED / "bert" / "tokenizer.json", tmp_path)
    return lambda **settings: TextEmbedder(settings, [specs(8), specs(16)], tmp_path)


def read(handler, body):
    """Read a JSON body."""
    return handler.read({"body": json.dumps(body).encode()}, {"body": "application/json"})


def respond(handler, body, vectors):
    """Answer a request whose items have these vectors as embeddings."""
    payload = read(handler, body)
    samples = [handler.preprocess(item) for item in payload.items]
    rows = [handler.answer((torch.tensor(v),), s.note, {}) for v, s in zip(vectors, samples, strict=True)]
    return handler.wrap(payload, rows, "m", "1.0")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"truncate": "yes"}, "truncate: true or false"),
        ({"paraphrase_threshold": 2}, "paraphrase_threshold: a number of -1 to 1"),
        ({"most_characters": 0}, "most_characters"),
        ({"treshold": 1}, "unknown 'treshold'"),
    ],
)
def test_wrong_settings(settings, reason):
    """Each is named before anything is built."""
    assert reason in " ".join(TextEmbedder.check_settings(settings, specs(-1)))


@pytest.mark.parametrize(
    "inputs",
    [
        [TensorSpec("input_ids", "int64", (1, 8))],
        [*specs(8), TensorSpec("pixels", "int64", (1, 8))],
        [TensorSpec("input_ids", "int32", (1, 8)), TensorSpec("attention_mask", "int64", (1, 8))],
    ],
)
def test_wrong_inputs(inputs):
    """A sentence encoder takes ids and a mask, int64 each."""
    assert "inputs" in " ".join(TextEmbedder.check_settings({}, inputs))


def test_right_settings():
    """No faults."""
    assert TextEmbedder.check_settings({"truncate": True, "paraphrase_threshold": 0.5}, specs(-1)) == []


def test_a_text_becomes_the_models_inputs(make):
    """As long as the text is, for the smallest bucket that holds it."""
    ids, mask = make().preprocess("the cat").inputs
    assert ids.shape == mask.shape == (4,)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("the", {"embedding": [0.6, 0.8]}),
        (["the"], [{"embedding": [0.6, 0.8]}]),
        ({"instances": ["the"]}, {"predictions": [{"embedding": [0.6, 0.8]}]}),
    ],
)
def test_answers(make, body, expected):
    """An object for each text, in the form of the request."""
    assert respond(make(), body, [[0.6, 0.8]]) == expected


def test_kserve_v2(make):
    """One tensor with a row for each text."""
    body = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [2], "data": ["the", "cat"]}]}
    (tensor,) = respond(make(), body, [[1.0, 0.0], [0.0, 1.0]])["outputs"]
    assert tensor == {"name": "embedding", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 0.0, 0.0, 1.0]}


@pytest.mark.parametrize(("other", "similarity", "same"), [([0.0, 2.0], 0.0, False), ([3.0, 0.0], 1.0, True)])
def test_a_pair(make, other, similarity, same):
    """The cosine, whatever the vectors' lengths, and the verdict by the threshold."""
    answer = respond(make(), {"seq_0": "the", "seq_1": "cat"}, [[1.0, 0.0], other])
    assert answer == {"similarity": similarity, "paraphrase": same}


def test_several_pairs(make):
    """A verdict for each, in the form of the request."""
    body = {"instances": [{"seq_0": "the", "seq_1": "cat"}, {"seq_0": "a", "seq_1": "dog"}]}
    answer = respond(make(), body, [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert [each["similarity"] for each in answer["predictions"]] == [1.0, -1.0]


def test_texts_and_pairs_do_not_mix(make):
    """Their answers have different forms."""
    with pytest.raises(BadRequest, match="texts and pairs"):
        read(make(), ["a", {"seq_0": "the", "seq_1": "cat"}])


def test_many_pairs_are_many_texts(make):
    """128 items is the most; a pair counts as two."""
    with pytest.raises(TooLarge, match="130 items"):
        read(make(), [{"seq_0": "the", "seq_1": "cat"}] * 65)


def test_a_cut_text_is_told(make):
    """In the answer to it, and to a pair that holds it."""
    long = "the " * 30
    assert respond(make(truncate=True), long, [[1.0, 0.0]])["truncated"] is True
    pair = {"seq_0": long, "seq_1": "the"}
    assert respond(make(truncate=True), pair, [[1.0, 0.0], [1.0, 0.0]])["truncated"] is True


def test_a_long_text_is_refused_without_truncate(make):
    """By default."""
    with pytest.raises(TooLarge, match="at most 16"):
        make().preprocess("the " * 30)


def test_a_pair_is_no_array(make):
    """A client that accepts npy alone gets 406."""
    handler = make()
    with pytest.raises(NotAcceptable):
        handler.wrap(Payload(["a", "b"], "pairs:plain", accept="application/x-npy"), [np.ones(2), np.ones(2)], "m", "1")


def test_numbers_that_are_none_are_not_given_out(make):
    """The model failed, not the client."""
    with pytest.raises(ModelError, match="not numbers"):
        make().postprocess((torch.tensor([1.0, math.nan]),))


def test_the_outputs_shape_is_checked(make):
    """A vector for each position is no sentence's embedding."""
    assert "expected (batch, size" in make().check_outputs((torch.zeros(1, 8, 4),))[0]
    assert make().check_outputs((torch.zeros(1, 4),)) == []


def test_a_missing_tokenizer_is_told(tmp_path):
    """With where it was looked for."""
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json"):
        TextEmbedder({}, [specs(8)], tmp_path)
