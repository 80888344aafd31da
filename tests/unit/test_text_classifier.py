"""The text classifier: settings, labels, pairs, answers; and its recipe built from a tiny folder."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError
from handlers.text_classifier import TextClassifier
from handlers.texts import INPUT_NAMES, Pair
from tracing.loading import SHIPPED

TOKENIZER = SHIPPED / "bert" / "tokenizer.json"


def specs(length):
    """The inputs of a classifier."""
    return [TensorSpec(name, "int64", (1, length)) for name in INPUT_NAMES]


@pytest.fixture
def make(tmp_path: Path):
    """Make a classifier for 16 tokens, with settings."""
    shutil.copy(TOKENIZER, tmp_path)
    return lambda **settings: TextClassifier(settings, [specs(16)], tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"labels": "ab"}, "labels: a list of texts"),
        ({"labels": []}, "labels: texts"),
        ({"labels": ["a", "a"]}, "labels: no label twice"),
        ({"activation": "tanh"}, "activation: one of softmax"),
        ({"top_k": 0}, "top_k"),
        ({"truncate": 1}, "truncate: true or false"),
        ({"topk": 1}, "unknown 'topk'"),
    ],
)
def test_wrong_settings(settings, reason):
    """Each is named before anything is built."""
    assert reason in " ".join(TextClassifier.check_settings(settings, specs(-1)))


def test_a_pair_is_one_item_of_two_segments(make):
    """Unlike for an embedder."""
    handler = make()
    payload = handler.read({"seq_0": b"the", "seq_1": b"cat"}, {})
    assert payload.items == [Pair("the", "cat")]
    assert handler.preprocess(payload.items[0]).inputs[2].tolist() == [0, 0, 0, 1, 1]


def test_labels_come_from_the_folders_configuration(make, tmp_path):
    """Or from the settings, or have Hugging Face's names."""
    assert make().label(1) == "LABEL_1"
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
    assert make().label(1) == "yes"
    assert make(labels=["x", "y"]).label(1) == "y"


def test_an_answer_is_ranked(make):
    """Probabilities, largest first, as many as asked for."""
    handler = make(labels=["no", "yes", "maybe"])
    probabilities = handler.activate((torch.tensor([[0.0, 2.0, 1.0]]),))[0][0]
    answer = handler.answer((probabilities,), None, {"top_k": "2"})
    assert list(answer) == ["yes", "maybe"]
    assert answer["yes"] == pytest.approx(math.exp(2) / (1 + math.exp(2) + math.exp(1)))


def test_top_k_beyond_the_labels_is_refused(make):
    """With how many there are."""
    with pytest.raises(BadRequest, match="1 to 2"):
        make().answer((torch.tensor([0.5, 0.5]),), None, {"top_k": 3})


def test_a_cut_text_is_told(make):
    """Beside the labels, in KServe v2 as a tensor."""
    handler = make(truncate=True)
    note = handler.preprocess("the " * 30).note
    answer = handler.answer((torch.tensor([0.25, 0.75]),), note, {})
    assert answer == {"labels": {"LABEL_1": 0.75, "LABEL_0": 0.25}, "truncated": True}
    assert [tensor["name"] for tensor in handler.as_tensors([answer])] == ["labels", "probabilities", "truncated"]


def test_a_label_named_truncated_is_a_label(make):
    """No answer is taken for another form."""
    handler = make(labels=["truncated", "whole"])
    (labels, _) = handler.as_tensors([handler.answer((torch.tensor([0.25, 0.75]),), None, {})])
    assert labels["data"] == ["whole", "truncated"]


def test_numbers_that_are_none_are_not_given_out(make):
    """The model failed, not the client."""
    with pytest.raises(ModelError, match="not a number"):
        make().postprocess((torch.tensor([0.5, math.inf]),))


def test_as_many_outputs_as_labels(make):
    """Another number is refused when the archive is built."""
    handler = make(labels=["a", "b"])
    assert "expected (batch, 2)" in handler.check_outputs((torch.zeros(1, 3),))[0]
    assert handler.check_outputs((torch.zeros(1, 2),)) == []
