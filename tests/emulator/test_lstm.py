"""LSTMs on torch_neuron (contract 2.9; AWS docs: archive/torch-neuron/guides/torch-lstm-support.rst)."""

import warnings

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import find_subgraphs
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FULL, INPUTS = torch.tensor([5, 5]), torch.rand(5, 2, 3)
LENGTHS = [[5, 5], [4, 2], [5, 1]]


class Fixed(torch.nn.Module):
    """An LSTM over sequences of one length."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = torch.nn.LSTM(3, 7, **options)
        self.eval().requires_grad_(False)

    def forward(self, inputs):
        return self.lstm(inputs)


class Unpacked(Fixed):
    """An LSTM over packed sequences, unpacked inside of the model."""

    ordered = True

    def forward(self, inputs, lengths):
        first = self.lstm.batch_first
        packed = pack_padded_sequence(inputs, lengths, batch_first=first, enforce_sorted=self.ordered)
        result, (hidden, cell) = self.lstm(packed)
        return pad_packed_sequence(result, batch_first=first)[0], hidden, cell


class Unordered(Unpacked):
    """The same, sorted inside of the model."""

    ordered = False


class Stacked(Unpacked):
    """A second LSTM over the packed output of the first."""

    def __init__(self):
        super().__init__()
        self.second = torch.nn.LSTM(7, 4)

    def forward(self, inputs, lengths):
        packed, _ = self.lstm(pack_padded_sequence(inputs, lengths))
        result, (hidden, cell) = self.second(packed)
        return pad_packed_sequence(result)[0], hidden, cell


class States(Fixed):
    """Only the last states of an LSTM over packed sequences."""

    def forward(self, inputs, lengths):
        return self.lstm(pack_padded_sequence(inputs, lengths))[1]


class Escaping(Fixed):
    """A packed output that another operator takes."""

    def forward(self, inputs, lengths):
        return torch.max(self.lstm(pack_padded_sequence(inputs, lengths))[0].data)


def trace(model, *inputs):
    """Return a traced LSTM; torch warns that packing looks at values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch_neuron.trace(model, inputs)


def left_over(module):
    """Return the operators that run on the processor."""
    return {node.kind() for node in module.inlined_graph.nodes() if node.kind().startswith("aten::")}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}])
def test_sequences_of_one_length(options):
    """Contract 2.9: fixed-length sequences are supported."""
    model = Fixed(**options)
    module = trace(model, INPUTS)
    assert left_over(module) == set()
    output, (hidden, cell) = model(INPUTS)
    found = module(INPUTS)
    assert torch.allclose(found[0], output, atol=0.05)
    assert all(torch.allclose(*pair, atol=0.05) for pair in zip(found[1], (hidden, cell), strict=True))


@pytest.mark.parametrize("model", [Unpacked(), Stacked()])
def test_packing_and_unpacking_go_to_the_chip_together(model):
    """Contract 2.9: the packed output is consumed by another LSTM or by pad_packed_sequence."""
    module = trace(model, INPUTS, FULL)
    assert left_over(module) == set()
    assert [shape for _, shape in find_subgraphs(module)[0].header.inputs] == [(5, 2, 3), (2,)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("model", [Unpacked(), Unpacked(batch_first=True), Unordered(), Stacked()])
def test_lengths_vary_and_shapes_do_not(model, lengths):
    """Contract 2.9: shapes stay fixed; the guide: "computation is fixed to the maximum length ahead of time"."""
    inputs = INPUTS.transpose(0, 1).contiguous() if model.lstm.batch_first else INPUTS
    module = trace(model, inputs, FULL)
    found, expected = module(inputs, torch.tensor(lengths)), model(inputs, torch.tensor(lengths))
    steps, rows = expected[0].shape[:2]
    assert found[0].shape[:2] == inputs.shape[:2]
    assert torch.allclose(found[0][:steps, :rows], expected[0], atol=0.05)
    assert all(torch.allclose(*pair, atol=0.05) for pair in zip(found[1:], expected[1:], strict=True))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_an_unused_packed_output_is_no_hindrance(lengths):
    """Contract 2.9: or is unused."""
    model = States()
    module = trace(model, INPUTS, FULL)
    assert left_over(module) == set()
    found, expected = module(INPUTS, torch.tensor(lengths)), model(INPUTS, torch.tensor(lengths))
    assert all(torch.allclose(*pair, atol=0.05) for pair in zip(found, expected, strict=True))


def test_sorting_runs_on_the_processor():
    """Contract 2.9: enforce_sorted=False adds sort and scatter on the processor, and the LSTM compiles."""
    found = left_over(trace(Unordered(), INPUTS, FULL))
    assert "aten::sort" in found
    assert any(kind.startswith("aten::scatter") for kind in found)
    assert "aten::lstm" not in found


def test_an_operator_that_takes_a_packed_output_is_named(caplog):
    """Contract 2.9: the confirmed warning, with the guide's second offender; the LSTM stays on the processor."""
    assert {"aten::lstm", "aten::_pack_padded_sequence"} <= left_over(trace(Escaping(), INPUTS, FULL))
    text = (
        'Operator "aten::lstm" consuming a PackedSequence input can only be supported when its corresponding '
        'PackedSequence output is unused or unpacked using "aten::_pad_packed_input". Found usage by "aten::max"'
    )
    assert text in caplog.messages
