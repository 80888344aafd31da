"""A model's sensitive end taken off, so that a chip's compiler is not given it."""

import pytest
import torch

from handlers.handler import as_tuple
from tracing.errors import PreflightError
from tracing.splitting import split_end

EXAMPLE = (torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),)


class Pair(torch.nn.Module):
    """An end of two inputs."""

    def forward(self, scores, scale):
        return scores * scale


class Network(torch.nn.Module):
    """Layers, and a forward that is given as a function."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Linear(8, 4)
        self.head = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
        self.softmax = torch.nn.Softmax(1)
        self.pair = Pair()
        self.function = forward
        self.eval()

    def forward(self, features):
        return self.function(self, features)


def plain(model, features):
    return model.softmax(model.head(model.body(features)))


@pytest.mark.parametrize(
    ("forward", "names"),
    [
        (plain, ("softmax",)),
        (plain, ("head", "softmax")),
        (plain, ("softmax", "head.1")),  # in any order, and inside another
        (plain, ("body", "head", "softmax")),
        (lambda m, x: m.pair(m.body(x), m.body(x).exp()), ("pair",)),
        (lambda m, x: {"probabilities": plain(m, x)}, ("softmax",)),
        (lambda m, x: (plain(m, x),), ("softmax",)),
    ],
)
def test_the_two_parts_give_what_the_model_gives(forward, names):
    """And the body ends before the first of them."""
    model = Network(forward)
    body, end = split_end(model, names, EXAMPLE)
    with torch.no_grad():
        between = as_tuple(body(*EXAMPLE))
        assert torch.equal(as_tuple(end(*between))[0], as_tuple(model(*EXAMPLE))[0])
    assert len(end.steps) == len(names)
    assert not any(torch.equal(each, as_tuple(model(*EXAMPLE))[0]) for each in between)


def test_weights_are_shared_and_the_model_is_not_changed():
    """A large model is not held twice."""
    model = Network(plain)
    body, _ = split_end(model, ("softmax",), EXAMPLE)
    assert body.body.weight is model.body.weight
    assert isinstance(model.softmax, torch.nn.Softmax)


def test_both_parts_can_be_traced():
    """The body by the chip's framework, the end by torch."""
    body, end = split_end(Network(plain), ("softmax",), EXAMPLE)
    with torch.no_grad():
        traced = torch.jit.trace(body, EXAMPLE)
        kinds = [node.kind() for node in traced.inlined_graph.nodes()]
        assert "aten::softmax" not in kinds
        assert "aten::softmax" in [node.kind() for node in torch.jit.trace(end, traced(*EXAMPLE)).inlined_graph.nodes()]


@pytest.mark.parametrize(
    ("forward", "names", "message"),
    [
        (plain, ("argmax",), "the model has no submodule 'argmax', expected one of body, head, head.0, head.1, pair"),
        (plain, ("head",), "head is not the model's last submodule, .*: softmax follow it; name the last submodules"),
        (lambda m, x: plain(m, x) * 2, ("softmax",), "operators in forward follow it, or other outputs exist"),
        (lambda m, x: (plain(m, x), x), ("softmax",), "operators in forward follow it, or other outputs exist"),
        (plain, ("body", "softmax"), r"softmax does not take exactly what body returns \(head, head.0, head.1 is in"),
        (lambda m, x: m.softmax(m.body(x) * 2), ("body", "softmax"), "operators of forward are in between"),
        (plain, ("head", "head.1"), "head.1 is part of head, which is kept as a whole"),
        (plain, ("pair",), "pair ran 0 times in one forward, expected once"),
        (lambda m, x: m.softmax(m.softmax(m.body(x))), ("softmax",), "softmax ran 2 times in one forward"),
        (lambda m, x: m.pair(m.body(x), scale=m.body(x)), ("pair",), "pair is called with keyword arguments"),
        (lambda m, x: m.softmax(m.body(x)) if m.softmax.dim else x, ("softmax",), "does not run without its end: Attr"),
    ],
)
def test_what_is_not_the_end_is_refused(forward, names, message):
    """With what follows it."""
    with pytest.raises(PreflightError, match=f"keep_on_cpu: .*{message}"):
        split_end(Network(forward), names, EXAMPLE)
