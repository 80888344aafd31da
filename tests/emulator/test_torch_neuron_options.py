"""torch_neuron.trace: its rarer arguments, limits of the compiler, and a real network."""

import logging
import re
import shlex

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import find_subgraphs
from neuron_emulator.runtime import describe_host

from tests.emulator.networks import Branching, Convolution
from tracing.recipes.cifar10.network import CompactResNet

HALF = [torch_neuron.Optimization.FLOAT32_TO_FLOAT16]
IMAGE = torch.rand(1, 3, 8, 8)


def left_over(module):
    """Return the operators that run on the processor."""
    return [node.kind() for node in module.inlined_graph.nodes() if node.kind().startswith("aten::")]


def total(name):
    """Return a figure of the runtime's record, summed over the cores."""
    return sum(core[name] for core in describe_host()["cores"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_half_precision_takes_either_type(dtype):
    """Contract 2.2: FLOAT32_TO_FLOAT16, the traced model accepts FP32 and FP16."""
    model = Convolution()
    module = torch_neuron.trace(model, IMAGE, optimizations=HALF)
    assert torch.allclose(module(IMAGE.to(dtype)), model(IMAGE), atol=0.05)


@pytest.mark.parametrize("fallback", [True, False])
def test_half_precision_casts_on_the_processor(fallback):
    """Contract 2.2: the cast happens on the processor, and half the bytes move."""
    module = torch_neuron.trace(Convolution(), IMAGE, optimizations=HALF, fallback=fallback)
    assert left_over(module) == ["aten::to", "aten::to"]
    assert find_subgraphs(module)[0].header.inputs == (("float16", (1, 3, 8, 8)),)
    module(IMAGE)
    assert total("bytes_in") == IMAGE.numel() * 2


def test_half_precision_leaves_integers_alone():
    """Contract 2.2: float32 tensors are converted, others are not."""
    module = torch_neuron.trace(lambda x, n: torch.relu(x) * n, (IMAGE, torch.tensor([3])), optimizations=HALF)
    assert {dtype for dtype, _ in find_subgraphs(module)[0].header.inputs} == {"float16", "int64"}
    assert torch.allclose(module(IMAGE, torch.tensor([2])), IMAGE * 2, atol=0.05)


def test_half_precision_goes_with_a_subgraph_builder():
    """Contract 2.2: both arguments together; the builder sees the user's modules."""
    module = torch_neuron.trace(
        torch.nn.Sequential(Convolution(), torch.nn.Softplus()).eval(),
        IMAGE,
        optimizations=HALF,
        subgraph_builder_function=lambda node: "Convolution" in node.name,
    )
    assert "aten::softplus" in left_over(module)
    assert "aten::_convolution" not in left_over(module)


def test_skipping_the_compiler_only_plans(caplog):
    """Contract 2.2: skip_compiler=True, for inspection; no compiler runs, the log has the plan."""
    with caplog.at_level(logging.INFO, "Neuron"):
        module = torch_neuron.trace(Branching(), torch.rand(4, 3), skip_compiler=True)
    assert find_subgraphs(module) == []
    assert "aten::erfinv" in left_over(module)
    assert "Number of arithmetic operators (pre-compilation) before = 7, fused = " in caplog.text
    assert "Compiling function" not in caplog.text


def test_more_logging_may_be_asked_for():
    """Contract 2.2: verbose=1, as samples have it."""
    assert find_subgraphs(torch_neuron.trace(Convolution(), IMAGE, verbose=1))


@pytest.mark.parametrize("rows", [1, 3])
def test_separate_weights_give_the_same_numbers(rows):
    """Contract 2.2: also with dynamic batches; the weights are loaded with the graph and do not move at each call."""
    model, images = Convolution(), torch.rand(rows, 3, 8, 8)
    inside, beside = (
        torch_neuron.trace(model, IMAGE, separate_weights=separate, dynamic_batch_size=True)
        for separate in (False, True)
    )
    shapes = sorted(tuple(weight.shape) for weight in find_subgraphs(beside)[0].weights.values())
    assert shapes == [(4,), (4, 3, 3, 3)]
    assert torch.equal(beside(images), inside(images))
    assert total("bytes_in") == 2 * images.numel() * 4


class Large(torch.nn.Module):
    """A model of 2.4 GB of constants, which take no memory here."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(1).expand(600_000_000))

    def forward(self, x):
        return torch.relu(x) * 2 + self.table[:3]


def test_constants_beyond_two_gigabytes():
    """Contract 5.3, 9.16, 10: protobuf's error and its confirmed text."""
    with pytest.raises(Exception, match=r"Error parsing message with type 'tensorflow\.GraphDef'") as caught:
        torch_neuron.trace(Large().eval(), torch.rand(2, 3))
    assert type(caught.value).__name__ == "DecodeError"


def test_an_old_compiler_has_no_separate_weights(monkeypatch):
    """Contract 2.2, 10: NotImplementedError, on demand."""
    monkeypatch.setenv("NEURON_EMULATOR_FAULT", "compiler-old")
    with pytest.raises(NotImplementedError, match="separate_weights"):
        torch_neuron.trace(Convolution(), IMAGE, separate_weights=True)
    assert torch_neuron.trace(Convolution(), IMAGE) is not None


def test_the_command_line_is_the_documented_one(caplog):
    """Contract 2.3: framework, pipeline, io-config, the user's flags, then --verbose 35."""
    with caplog.at_level(logging.INFO, "Neuron"):
        torch_neuron.trace(Convolution(), IMAGE, compiler_args=["--fast-math", "none"])
    line = next(each for each in caplog.messages if each.startswith("Compiling with command line: "))
    words = shlex.split(re.sub(r"^Compiling with command line: '(.*)'$", r"\1", line))
    assert words[:2] == ["neuron-cc", "compile"]
    assert words[2].endswith("/graph_def.pb")
    assert words[3:8] == ["--framework", "TENSORFLOW", "--pipeline", "compile", "SaveTemps"]
    assert words[-4:] == ["--fast-math", "none", "--verbose", "35"]


@pytest.mark.parametrize(
    "arguments",
    [["--fast-math", "sometimes"], ["--neuroncore-pipeline-cores"], ["--no-such-flag"]],
)
def test_wrong_flags_are_errors_in_the_log_only(caplog, arguments):
    """Contract 2.3, 9.14: ERROR:Neuron and WARNING:Neuron; the exception is that nothing is left."""
    with pytest.raises(RuntimeError, match="No operations were successfully partitioned"):
        torch_neuron.trace(Convolution(), IMAGE, compiler_args=arguments)
    levels = [(record.name, record.levelname) for record in caplog.records if record.levelno >= logging.WARNING]
    assert levels == [("Neuron", "ERROR"), ("Neuron", "WARNING")]


def test_a_real_network_compiles_whole(caplog):
    """Contract 5.2: convolutions, residuals and pooling in one graph, close to what the processor computes."""
    torch.manual_seed(0)
    model, images = CompactResNet().eval().requires_grad_(False), torch.rand(2, 3, 32, 32)
    with caplog.at_level(logging.INFO, "Neuron"):
        module = torch_neuron.trace(model, images)
    assert "percent fused = 100.00%" in caplog.text
    assert left_over(module) == []
    assert len(find_subgraphs(module)) == 1
    assert float(torch.cosine_similarity(module(images), model(images)).min()) > 0.999
