"""The shipped handler: settings checked, pixels normalised, the best labels first."""

import math

import numpy as np
import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError, UnsupportedType
from handlers.image_classifier import ImageClassifier, find_largest
from tests.fakes import make_picture

SPEC = TensorSpec("image", "float32", (1, 3, 8, 8))
LABELS = ["red", "green", "blue"]


def make(*, spec: TensorSpec = SPEC, **settings) -> ImageClassifier:
    return ImageClassifier({"labels": LABELS, **settings}, [[spec]])


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "expected labels: a list of texts, one for each output"),
        ({"labels": "red"}, "expected labels: a list of texts"),
        ({"labels": []}, "expected labels: a list of texts"),
        ({"labels": [1, 2, 3]}, "expected labels: a list of texts"),
        ({"labels": ["a", "b", "a"]}, "expected labels: no label twice, 'a' is"),
        ({"mean": [0.5]}, "expected mean: three numbers"),
        ({"mean": [0.5, 0.5, "x"]}, "expected mean: three numbers"),
        ({"std": [1, 1, 0]}, "expected std: three numbers over 0"),
        ({"std": [1, 1, float("nan")]}, "expected std: three numbers over 0"),
        ({"activation": "relu"}, "expected activation: one of softmax, sigmoid, none"),
        ({"top_k": 0}, "expected top_k: a whole number over 0"),
        ({"top_k": 2.5}, "expected top_k: a whole number over 0"),
        ({"crop_share": 1.5}, "expected crop_share: over 0, at most 1"),
        ({"crop_share": 0}, "expected crop_share: over 0, at most 1"),
        ({"most_bytes": -1}, "expected most_bytes: a whole number over 0"),
        ({"most_pixels": "many"}, "expected most_pixels: a whole number over 0"),
        ({"sdt": [1, 1, 1]}, "unknown 'sdt'; expected one of labels, mean, std"),
    ],
)
def test_each_wrong_setting_is_named(settings, fault):
    """A recipe's author reads which setting is wrong and what it should be."""
    whole = settings if not settings or "labels" in settings else {"labels": LABELS, **settings}
    faults = ImageClassifier.check_settings(whole, [SPEC])
    assert len(faults) == 1
    assert fault in faults[0]


def test_all_wrong_settings_are_reported_together():
    """Nobody has to build three times to see three faults."""
    faults = ImageClassifier.check_settings({"labels": LABELS, "top_k": 0, "std": 1, "x": 2}, [SPEC])
    assert len(faults) == 3


@pytest.mark.parametrize("shapes", [[], [(1, 1, 8, 8)], [(1, 3, 8)], [(1, 3, 8, 8), (1, 3, 8, 8)]], ids=str)
def test_inputs_other_than_one_picture_are_refused(shapes):
    """The handler makes one tensor of three channels."""
    specs = [TensorSpec(f"x{n}", "float32", shape) for n, shape in enumerate(shapes)]
    (fault,) = ImageClassifier.check_settings({"labels": LABELS}, specs)
    assert "expected one of shape (batch, 3, height, width)" in fault


def test_good_settings_have_no_faults():
    """The defaults and every setting within its range pass."""
    settings = {"labels": LABELS, "mean": [0, 0, 0], "std": (1, 2, 3), "crop_share": 1, "activation": "sigmoid"}
    assert ImageClassifier.check_settings(settings, [SPEC]) == []


def test_pixels_are_normalised_for_each_channel():
    """(x / 255 - mean) / std, R, G and B each with its own, in the order batch, channel, height, width."""
    handler = make(mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (batch,) = handler.collate([(pixels,), (pixels,)])
    expected = (pixels.transpose(2, 0, 1) / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 1.0, 2.0])[
        :, None, None
    ]
    assert (batch.shape, batch.dtype) == ((2, 3, 8, 8), torch.float32)
    assert np.allclose(batch[0], expected, atol=1e-6)
    assert torch.equal(batch[0], batch[1])


@pytest.mark.parametrize(
    "turn",
    [
        lambda pixels: pixels[::-1, ::-1],
        lambda pixels: pixels.transpose(1, 0, 2),
        lambda pixels: np.broadcast_to(pixels[:1, :1], pixels.shape),
        np.asfortranarray,
    ],
    ids=["flipped", "turned", "one colour", "columns first"],
)
def test_pixels_may_lie_in_memory_as_they_like(turn):
    """A handler of one's own may give what numpy made of its picture."""
    handler = make(mean=[0.1, 0.2, 0.3])
    pixels = turn(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    plain = np.ascontiguousarray(pixels)
    for count in (1, 3):
        assert torch.equal(handler.collate([(pixels,)] * count)[0], handler.collate([(plain,)] * count)[0])


def test_the_batch_has_the_dtype_of_the_input():
    """A model compiled for bf16 inputs gets them."""
    spec = TensorSpec("image", "bfloat16", (1, 3, 8, 8))
    assert make(spec=spec).collate([(np.zeros((8, 8, 3), np.uint8),)])[0].dtype == torch.bfloat16


def test_height_and_width_are_not_exchanged():
    """The model's shape is (height, width), a picture's size (width, height)."""
    handler = make(spec=TensorSpec("image", "float32", (1, 3, 6, 10)))
    assert handler.preprocess(make_picture(size=(20, 40)))[0].shape == (6, 10, 3)


@pytest.mark.parametrize(("item", "error"), [("text", BadRequest), (3, BadRequest), (b"no picture", UnsupportedType)])
def test_an_item_that_is_no_picture_is_refused(item, error):
    """What is no file, or no picture, is a client's fault."""
    with pytest.raises(error):
        make().preprocess(item)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("softmax", [math.exp(x) / (math.exp(0) + math.exp(1) + math.exp(2)) for x in (0, 1, 2)]),
        ("sigmoid", [1 / (1 + math.exp(-x)) for x in (0, 1, 2)]),
        ("none", [0, 1, 2]),
    ],
)
def test_outputs_become_probabilities(activation, expected):
    """Each activation does what its name says, in float32 even for a bf16 model."""
    (scores,) = make(activation=activation).activate((torch.tensor([[0.0, 1.0, 2.0]]).bfloat16(),))
    assert scores.dtype == torch.float32
    assert np.allclose(scores[0], expected, atol=1e-6)


def test_the_largest_comes_first_and_equals_keep_the_labels_order():
    """TorchServe's convention, and the same answer on every host."""
    answer = make(top_k=2).postprocess((torch.tensor([0.25, 0.5, 0.25]),))
    assert list(answer.items()) == [("green", 0.5), ("red", 0.25)]


@pytest.mark.parametrize(("labels", "count"), [(3, 1), (10, 5), (41, 5), (1000, 5), (1000, 1000)])
def test_the_largest_of_many_are_those_of_a_full_sort(labels, count):
    """However many labels there are, and with every value several times."""
    values = [float(each) for each in np.random.default_rng(labels).integers(0, 20, labels)]
    expected = sorted(range(labels), key=lambda place: (-values[place], place))[:count]
    assert find_largest(values, count) == expected


@pytest.mark.parametrize("step", [1, -1])
def test_pictures_are_normalised_channel_by_channel(step):
    """As (x / 255 - mean) / std, whatever the order of a picture's bytes in memory."""
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)[:, ::step, ::step]
    (batch,) = make(mean=mean, std=std).collate([(each,) for each in pictures])
    expected = ((pictures / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(batch.numpy(), expected, atol=1e-6)


def test_fewer_labels_than_top_k_are_all_given():
    """Three labels give three, though five are asked for."""
    assert list(make().postprocess((torch.tensor([0.2, 0.3, 0.5]),))) == ["blue", "green", "red"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_answer_that_is_not_finite_is_refused(value):
    """A probability that is no number is never given out."""
    with pytest.raises(ModelError, match="not a number"):
        make().postprocess((torch.tensor([0.2, value, 0.5]),))


@pytest.mark.parametrize(
    ("outputs", "activation", "fault"),
    [
        (torch.zeros(2, 4), "softmax", "shape [2, 4], expected (batch, 3)"),
        (torch.zeros(2, 3, 1), "softmax", "shape [2, 3, 1]"),
        (torch.tensor([[0.2, 0.3, 0.5]]), "softmax", "probabilities already; say activation='none'"),
        (torch.tensor([[2.0, 0.3, 0.5]]), "none", "no probabilities; say activation='softmax' or 'sigmoid'"),
    ],
)
def test_outputs_that_do_not_fit_the_settings_are_noticed(outputs, activation, fault):
    """Labels, and softmax over softmax, are caught when the model is built."""
    (found,) = make(activation=activation).check_outputs((outputs,))
    assert fault in found


@pytest.mark.parametrize(
    ("outputs", "activation"),
    [
        (torch.tensor([[2.0, -1.0, 0.5]]), "softmax"),
        (torch.tensor([[0.2, 0.3, 0.5]]), "none"),
        (torch.tensor([[0.9, 0.9, 0.9]]), "sigmoid"),
    ],
)
def test_outputs_that_fit_the_settings_pass(outputs, activation):
    """Logits for softmax and sigmoid, probabilities for none."""
    assert make(activation=activation).check_outputs((outputs,)) == []


def test_answers_become_two_tensors():
    """KServe v2: labels and probabilities, each of shape (items, top_k)."""
    labels, scores = make().as_tensors([{"red": 0.6, "blue": 0.4}, {"green": 0.9, "red": 0.1}])
    assert labels == {"name": "labels", "datatype": "BYTES", "shape": [2, 2], "data": ["red", "blue", "green", "red"]}
    assert (scores["shape"], scores["data"]) == ([2, 2], [0.6, 0.4, 0.9, 0.1])
