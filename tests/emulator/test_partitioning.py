"""How a graph is split between NeuronCores and the processor."""

import re
from functools import partial

import torch
import torch_neuron

from tests.emulator.networks import Convolution


class Pair(torch.nn.Module):
    """A module that hands on two tensors, one of them changed in place by then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1)
        self.eval().requires_grad_(False)

    def forward(self, x):
        left = torch.nn.functional.leaky_relu_(self.first(x))
        return left, self.second(left)


class Chain(torch.nn.Module):
    """Two pairs behind a convolution, and a layer that is to stay on the processor."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.pairs, self.end = Convolution(), torch.nn.ModuleList([Pair(), Pair()]), torch.nn.Softplus()

    def forward(self, x):
        x = self.start(x)
        for pair in self.pairs:
            x, left = pair(x)
        return self.end(x), left


def test_modules_that_hand_on_tuples_stay_in_one_graph():
    """Contract 2.2: all but the module left out is compiled; a tuple between modules ties nothing together."""
    torch.manual_seed(0)
    model, x = Chain().eval(), torch.rand(1, 3, 8, 8)
    traced = torch_neuron.trace(model, x, subgraph_builder_function=lambda node: "Softplus" not in node.name)
    found = re.findall(r"(aten::\w+|neuron::forward\w+)\(", str(traced.inlined_graph))
    assert found == ["neuron::forward_v2_2", "aten::softplus"]
    assert all(map(partial(torch.allclose, atol=0.05), traced(x), model(x)))
