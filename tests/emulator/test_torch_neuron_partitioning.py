"""torch_neuron.trace: programs that are hard to split, and give what they gave before all the same."""

import io

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import find_subgraphs

from tests.emulator.networks import Branching, Convolution

ROWS = torch.linspace(0.05, 0.9, 12).reshape(4, 3)


def trace(model, *inputs, **options):
    """Return a model traced in as many parts as it falls into, saved and loaded again."""
    options = {"minimum_segment_size": 1, "single_fusion_ratio_threshold": 1.0, **options}
    buffer = io.BytesIO()
    torch.jit.save(torch_neuron.trace(model, inputs, **options), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def left_over(module):
    """Return the operators of a traced module that run on the processor."""
    return {node.kind() for node in module.inlined_graph.nodes() if node.kind().startswith("aten::")}


def write_columns(x):
    """Write into a new tensor, as a box decoder does."""
    found = torch.zeros(4, 3)
    found[:, 0] = x[:, 1] * 2
    found[:, 1:] = torch.relu(x[:, 1:])
    return torch.tanh(found) + 1


def write_what_the_processor_makes(x):
    """Write what no list has into a tensor that the chip makes and reads again."""
    found = x * 2
    found[:, 0] = torch.erfinv(x[:, 1] * 0.5)
    return torch.tanh(found) + torch.relu(found)


def read_before_and_after_a_write(x):
    """Read a tensor on the processor, write to a part of it, read it on the chip."""
    found = x * 2
    before = torch.erfinv(found * 0.3)
    found[0].add_(1)
    return before + torch.relu(found)


def write_through_views(x):
    """Write to two parts of one tensor by different views."""
    found = x.clone()
    first, second = found.view(2, 2, 3).unbind(0)
    first.mul_(2)
    second[0] += torch.erfinv(x[0] * 0.3)
    return found.sum(0) + torch.relu(found)


def fill_step_by_step(x):
    """Collect the steps of a recurrence."""
    state, found = torch.zeros(3), torch.zeros(4, 3)
    for step in range(4):
        state = torch.tanh(state + x[step])
        found[step] = state
    return found


@pytest.mark.parametrize(
    "function",
    [
        write_columns,
        write_what_the_processor_makes,
        read_before_and_after_a_write,
        write_through_views,
        fill_step_by_step,
    ],
)
def test_writing_in_place_keeps_its_order(function):
    """Contract 2.2: what is partitioned computes what the model computes; other numbers than the example's."""
    module = trace(function, ROWS)
    for x in (ROWS.clone(), ROWS.flip(0).contiguous()):
        assert torch.allclose(module(x), function(x.clone()), atol=0.05)


def test_in_place_layers_compile():
    """Contract 2.2: ReLU(inplace=True) and += of residual networks do not stay on the processor."""

    class Residual(Convolution):
        def forward(self, x):
            found = self.conv(x)
            found += found * 2
            return torch.nn.functional.relu(found, inplace=True)

    image, model = torch.rand(1, 3, 8, 8), Residual()
    module = trace(model, image)
    assert left_over(module) == set()
    assert torch.allclose(module(image), model(image), atol=0.05)


@torch.jit.script
def _choose(x):
    if bool(x.sum() > 5):
        return torch.relu(x) * 2
    return torch.tanh(x) - 1


@torch.jit.script
def _add_rows(x):
    found = x
    for index in range(x.size(0)):
        found = found + x[index]
    return found


@pytest.mark.parametrize("scripted", [_choose, _add_rows])
@pytest.mark.parametrize("x", [torch.ones(4, 3), torch.zeros(4, 3)])
def test_scripted_control_flow_stays_on_the_processor(scripted, x):
    """Contract 2.2: ScriptModules are accepted; a branch that is taken at run time is not frozen."""

    def model(given):
        return scripted(torch.relu(given) + 0.1) * 2

    assert torch.allclose(trace(model, ROWS)(x), model(x), atol=0.05)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x, torch.relu(x) * 2),
        lambda x: (torch.relu(x) * 2, torch.ones(3) * 2),
        lambda x: (torch.relu(x), (x + 1, x - 1)),
        lambda x: torch.cat(x.split([1, 2], 1), 1) * 2,
        lambda x: sum(torch.relu(part) for part in x.chunk(2, 0)),
        lambda x: torch.erfinv(torch.relu(x) * 0.4).reshape(x.size(0) * x.size(1)).view(x.size(1), -1) * 2,
        lambda x: tuple(torch.relu(x + number) for number in range(70)),
        lambda x: (x > 0.5) & (x < 0.8),
    ],
)
def test_structures_and_shapes_survive(function):
    """Contract 2.2: inputs that are outputs, constants, nested tuples, lists on the way, sizes, many outputs, bool."""
    expected, found = (torch.utils._pytree.tree_flatten(each(ROWS)) for each in (function, trace(function, ROWS)))
    assert found[1] == expected[1]
    for one, other in zip(found[0], expected[0], strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one.float(), other.float(), rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64, torch.int32])
def test_dtypes_survive(dtype):
    """Contract 2.2: dtypes become static, and are those of the example."""
    x = torch.arange(6).reshape(2, 3).to(dtype)
    found = trace(lambda given: torch.relu(given) * 2 + 1, x)(x)
    assert found.dtype == dtype
    assert found.tolist() == [[1, 3, 5], [7, 9, 11]]


def test_nested_inputs_are_taken_apart_on_the_processor():
    """Contract 2.2: what torch.jit.trace takes, such as a tuple in the tuple of examples."""
    module = trace(lambda pair: torch.relu(pair[0]) * 2 + pair[1], (ROWS, ROWS))
    assert torch.allclose(module((ROWS, ROWS)), ROWS * 3, atol=0.05)


def test_a_dictionary_needs_strict_off():
    """Contract 2.2, 9.32: torch.jit.trace's own refusal, by default."""

    def named(x):
        return {"scores": torch.relu(x) * 2}

    with pytest.raises(RuntimeError, match="strict=False"):
        torch_neuron.trace(named, ROWS)
    assert torch.allclose(trace(named, ROWS, strict=False)(ROWS)["scores"], ROWS * 2, atol=0.05)


@pytest.mark.parametrize("separate", [False, True])
def test_weights_in_the_same_memory_are_told_apart(separate):
    """Contract 2.2: a buffer that is a part of another, and two layers with one weight."""

    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.linspace(-1, 1, 12).reshape(4, 3)
            self.register_buffer("whole", whole)
            self.register_buffer("part", whole[:2])
            self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x):
            x = self.second(self.first(x))
            return torch.cat([x @ self.whole.t(), x @ self.part.t()], 1) * 2

    model = Shared().eval().requires_grad_(False)
    assert torch.allclose(trace(model, ROWS, separate_weights=separate)(ROWS), model(ROWS), atol=0.05)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of torch's own attention
def test_attention_is_traced_as_its_parts():
    """Contract 2.5: torch's fused encoder layer, which no list has, is not what a model with trained weights gives."""
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.rand(2, 5, 8)
    module = trace(model, x)
    assert not {"aten::_transformer_encoder_layer_fwd", "aten::linear"} & left_over(module)
    assert torch.allclose(module(x), model(x), atol=0.1)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: torch.nn.functional.one_hot(x.long().clamp(0, 3), 4) * 2, ""),
        (lambda x: torch.nn.functional.one_hot(x.long().clamp(0, 3)) * 2, "aten::one_hot"),
        (lambda x: torch.where(x > 0.5, x, -x) * 2, ""),
        (lambda x: torch.where(x > 0.5)[0] * 2, "aten::where"),
        (lambda x: torch.norm(x * 2, 2, 1), ""),
        (lambda x: torch.norm(x * 2, 3, 1), "aten::linalg_vector_norm"),
        (lambda x: torch.nn.functional.max_pool3d(x.view(1, 1, 4, 3, 1), (2, 1, 1)) * 2, ""),
        (lambda x: torch.nn.functional.max_pool2d(x.view(1, 1, 4, 3), 2, return_indices=True)[1] * 2, ""),
        (
            lambda x: torch.nn.functional.max_pool3d(x.view(1, 1, 4, 3, 1), (2, 1, 1), return_indices=True)[1] * 2,
            "aten::max_pool3d_with_indices",
        ),
    ],
)
def test_limited_operators_compile_within_their_limits(function, left):
    """Contract 2.5: known classes, where with three arguments, norm for some p, unused indices of 3-D pooling."""
    assert left_over(trace(function, ROWS)) <= {left, "aten::select"}
    assert left in left_over(trace(function, ROWS)) | {""}


def test_several_graphs_of_a_model_take_several_cores():
    """Contract 2.11: each graph goes to the least-used core."""
    module = trace(Branching(), ROWS)
    assert [graph.cores for graph in find_subgraphs(module)] == [[(0,)], [(1,)]]


def test_a_nested_trace_is_saved_with_its_graph():
    """Contract 2.2: submodules with fallback=False, the outer one with torch.jit.trace, then saved and loaded."""
    model = Branching()
    expected = model(ROWS)
    model.before = torch_neuron.trace(model.before, ROWS, fallback=False)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, ROWS), buffer)
    buffer.seek(0)
    module = torch.jit.load(buffer)
    assert len(find_subgraphs(module)) == 1
    assert torch.allclose(module(ROWS), expected, atol=0.05)
