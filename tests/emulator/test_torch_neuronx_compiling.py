"""torch_neuronx on the emulator: what can be compiled, what is refused and with which code, buckets with state."""

import pytest
import torch
import torch_neuronx
from neuron_emulator.modules import find_subgraphs

WEIGHTS = {"weight": torch.eye(2), "bias": torch.ones(2)}


@pytest.fixture(autouse=True)
def _inf2(monkeypatch):
    """A host with the chips of this framework."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf2.xlarge")


def make_layer() -> torch.nn.Linear:
    """Return x + 1, with weights that require gradients, as most models have them."""
    layer = torch.nn.Linear(2, 2).eval()
    layer.load_state_dict(WEIGHTS)
    return layer


@pytest.mark.parametrize("kind", ["module", "method", "function", "script"])
def test_what_can_be_traced(kind):
    """Contract 3.1: a module or a function, also one that uses modules from around it."""
    layer = make_layer()
    func = {"module": layer, "method": layer.forward, "script": torch.jit.script(layer)}.get(kind, lambda x: layer(x))
    assert torch_neuronx.trace(func, torch.zeros(1, 2))(torch.ones(1, 2)).tolist() == [[2, 2]]


def test_outputs_may_be_a_dictionary(tmp_path):
    """Contract 3.1: also after saving."""
    torch.jit.save(torch_neuronx.trace(lambda x: {"one": x + 1, "two": x * 2}, torch.ones(2)), tmp_path / "m.pt")
    found = torch.jit.load(tmp_path / "m.pt")(torch.ones(2))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"one": [2, 2], "two": [2, 2]}


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_control_flow_is_frozen():
    """Contract 3.1: the branch of the example is taken for ever."""
    traced = torch_neuronx.trace(lambda x: x + 1 if x.sum() > 0 else x - 1, torch.ones(2))
    assert traced(-torch.ones(2)).tolist() == [0, 0]


def test_a_working_folder_keeps_the_artefacts(tmp_path):
    """Contract 3.1: compiler_workdir."""
    torch_neuronx.trace(torch.nn.ReLU(), torch.ones(2), compiler_workdir=tmp_path / "work")
    assert {each.name for each in (tmp_path / "work").iterdir()} == {"graph.neff", "log-neuron-cc.txt"}


def scatter(total: torch.Tensor) -> torch.Tensor:
    """Add up in place of a copy."""
    return total.clone().scatter_reduce_(0, torch.zeros(2, dtype=torch.int64), total, reduce="sum")


@pytest.mark.parametrize(
    ("func", "example", "code"),
    [
        (lambda x: torch.sort(x)[0], torch.rand(3), "EVRF001"),
        (lambda x: torch.fft.fft(x).abs(), torch.rand(4), "EVRF004"),
        (lambda x: torch.topk(x, 1)[0], torch.ones(3, dtype=torch.int32), "EVRF013"),
        (scatter, torch.ones(2, dtype=torch.int32), "EVRF016"),
        (lambda x: torch.bitwise_right_shift(x, x), torch.ones(2, dtype=torch.int16), "EVRF022"),
    ],
)
def test_refused_operators_have_the_compilers_code(func, example, code):
    """Contract 3.4: codes print as NCC_<code>."""
    with pytest.raises(RuntimeError, match=rf"neuronx-cc failed with 1: .*\(NCC_{code}\)"):
        torch_neuronx.trace(func, example)


@pytest.mark.parametrize(
    ("func", "example"),
    [
        (lambda x: torch.topk(x, 1)[0], torch.ones(3)),
        (scatter, torch.ones(2)),
        (lambda x: torch.bitwise_right_shift(x, x), torch.ones(2, dtype=torch.int32)),
    ],
)
def test_operators_refused_for_a_type_pass_with_another(func, example):
    """Contract 3.4: what the pages of these codes propose."""
    assert torch.equal(torch_neuronx.trace(func, example)(example), func(example))


class Cache(torch.nn.Module):
    """State that each call adds to, as long as the bucket."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cache = torch.nn.Parameter(torch.zeros(1, size), requires_grad=False)

    def forward(self, x):
        cache = self.cache + x
        return cache.sum(dim=1), cache


def kernel(tensors: list[torch.Tensor]):
    """Choose the bucket of 2 or of 4; what fits neither goes to one that is not there."""
    x = tensors[0]
    number = 0 if x.shape[1] <= 2 else 1 if x.shape[1] <= 4 else 2
    size = 2 if number == 0 else 4
    return [torch.nn.functional.pad(x, [0, size - x.shape[1]])], torch.tensor([number])


def preprocess(shapes_collection: list[list[list[int]]], states: list[torch.Tensor], bucket: torch.Tensor):
    """Return the last columns of the shared state."""
    shapes = shapes_collection[int(bucket)]
    return [states[i][:, states[i].shape[1] - shapes[i][1] :] for i in range(len(shapes))]


def trace_cache() -> torch.jit.ScriptModule:
    """Return a model of two buckets that share one buffer of state."""

    def make(size):
        model = Cache(size)
        return model, {model.cache: 1}

    config = torch_neuronx.BucketModelConfig(
        lambda *_: torch.jit.script(kernel),
        shared_state_buffer=[torch.zeros(1, 4)],
        shared_state_buffer_preprocessor=lambda: torch.jit.script(preprocess),
        func_kwargs=[{"size": 2}, {"size": 4}],
    )
    return torch_neuronx.bucket_model_trace(make, [torch.ones(1, 2), torch.ones(1, 4)], config)


def test_buckets_share_their_state(tmp_path):
    """Contract 3.3: one buffer, cut to each bucket's shape; kept from call to call, and saved."""
    torch.jit.save(trace_cache(), tmp_path / "m.pt")
    loaded = torch.jit.load(tmp_path / "m.pt")
    sizes = (2, 4, 2)
    assert [loaded(torch.ones(1, size)).item() for size in sizes] == [2, 6, 6]


def test_a_bucket_that_is_not_there():
    """Contract 3.3: the kernel's tensor is the number of a bucket; the text is the emulator's."""
    config = torch_neuronx.BucketModelConfig(lambda *_: torch.jit.script(kernel))
    examples = [torch.ones(1, 2), torch.ones(1, 4)]
    traced = torch_neuronx.bucket_model_trace(lambda: (torch.nn.ReLU(), {}), examples, config)
    with pytest.raises(torch.jit.Error, match="chose a bucket beyond the 2 there are"):
        traced(torch.ones(1, 5))


def test_each_bucket_is_a_graph_of_its_own():
    """Contract 3.3, 9.24: every bucket takes memory on a core."""
    assert [each.header.inputs[0][1] for each in find_subgraphs(trace_cache())] == [(1, 2), (1, 4)]
