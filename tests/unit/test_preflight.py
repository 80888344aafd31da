"""What one run of the eager model shows, before a compiler runs for minutes."""

import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.handler import as_tuple
from handlers.image_classifier import ImageClassifier
from tracing.errors import PreflightError
from tracing.preflight import name_outputs, run_preflight

BATCH = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
HANDLER = ImageClassifier({"labels": ["a", "b", "c"]}, [[TensorSpec("image", "float32", (1, 3, 8, 8))]])


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)).eval()


class Returns(torch.nn.Module):
    """Returns what a function makes of the scores of the network."""

    def __init__(self, function):
        super().__init__()
        self.network = network()
        self.function = function
        self.eval()

    def forward(self, image):
        return self.function(self.network(image))


def set_weight(model, value):
    model[1].weight.data[0, 0] = value
    return model


def test_a_sound_model_passes():
    """And its outputs get their names."""
    assert run_preflight(network(), HANDLER, BATCH) == ("output",)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network().train(), "the model is in training mode; call eval"),
        (set_weight(network(), float("nan")), "the weights 1.weight hold NaN or infinity; the checkpoint is broken"),
        (set_weight(network(), float("inf")), "the weights 1.weight hold NaN or infinity"),
        (network().half(), "the weights 1.weight, 1.bias are float16, which CPUs compute slowly or not"),
        (torch.nn.Linear(9, 3).eval(), r"does not run on the recipe's inputs \(float32 \[2, 3, 8, 8\]\): RuntimeError"),
        (Returns(lambda x: 3), "forward returned int, expected a tensor, a tuple of tensors or a dictionary"),
        (Returns(lambda x: None), "forward returned NoneType"),
        (Returns(lambda x: (x, 3)), "output_1 is int, expected a tensor"),
        (Returns(lambda x: {"scores": "text"}), "scores is str, expected a tensor"),
        (Returns(lambda x: x.sum()), r"output has shape \[\] for a batch of 2; expected the batch first"),
        (Returns(lambda x: x.T), r"output has shape \[3, 2\] for a batch of 2"),
        (Returns(lambda x: x / 0), "output holds NaN or infinity for the golden requests"),
        (Returns(lambda x: x[:, :2]), r"shape \[2, 2\], expected \(batch, 3\): one for each label"),
        (Returns(lambda x: x.softmax(1)), "probabilities already; say activation='none'"),
    ],
)
def test_each_fault_of_a_model_is_named(model, message):
    """With what was expected."""
    with pytest.raises(PreflightError, match=message):
        run_preflight(model, HANDLER, BATCH)


def test_faults_are_reported_together():
    """Weights and outputs in one message."""
    with pytest.raises(PreflightError) as caught:
        run_preflight(set_weight(network().train(), float("nan")), HANDLER, BATCH)
    for fault in ("training mode", "the weights 1.weight hold NaN", "output holds NaN"):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (torch.ones(1), ("output",)),
        ((torch.ones(1), torch.zeros(1)), ("output_0", "output_1")),
        ([torch.ones(1)], ("output_0",)),
        ({"boxes": torch.ones(1), "scores": torch.zeros(1)}, ("boxes", "scores")),
    ],
)
def test_outputs_have_names_in_their_order(outputs, names):
    """A dictionary's keys, or numbers."""
    assert name_outputs(outputs) == names
    assert len(as_tuple(outputs)) == len(names)
    assert bool(as_tuple(outputs)[0] == 1)
