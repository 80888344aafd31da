"""torch_neuronx on the emulator: what AWS's pages of its API say, rule by rule."""

import pytest
import torch
import torch_neuronx
from neuron_emulator.modules import find_subgraphs
from neuron_emulator.runtime import describe_host, get_runtime

from tests.emulator.networks import Convolution, run_python

IMAGE = torch.rand(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _inf2(monkeypatch):
    """A host with the chips of this framework."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf2.xlarge")


class Sorted(torch.nn.Module):
    """Layers, and an operator that the partitioner's page names as not supported."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(6, 4)
        self.eval().requires_grad_(False)

    def forward(self, x):
        return torch.sort(torch.log_softmax(torch.relu(self.layer(x)), dim=1))[0]


class Counter(torch.nn.Module):
    """State that each call adds to."""

    def __init__(self):
        super().__init__()
        self.total = torch.nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x):
        total = self.total + x
        return total * 2, total


def test_the_whole_graph_is_one_operator():
    """Contract 3.1: no operator is left to the processor without being asked for; outputs are CPU tensors."""
    traced = torch_neuronx.trace(Convolution(), IMAGE)
    kinds = [node.kind() for node in traced.graph.nodes() if not node.kind().startswith("prim::")]
    assert kinds == ["neuron::forward_v2_1"]
    assert traced(IMAGE).device.type == "cpu"


def test_nothing_is_cast_by_default_and_the_flags_are_read():
    """Contract 1.4, 5.2: --auto-cast none; matmult casts products only."""
    exact = Convolution()(IMAGE)
    assert torch.equal(torch_neuronx.trace(Convolution(), IMAGE)(IMAGE), exact)
    cast = torch_neuronx.trace(Convolution(), IMAGE, compiler_args="--auto-cast matmult --auto-cast-type bf16")
    assert 0 < float((cast(IMAGE) - exact).abs().max()) < 0.05


@pytest.mark.parametrize("args", [["--auto-cast", "all"], ["--auto-cast=all"], "--auto-cast all"])
def test_compiler_arguments_are_a_text_or_a_list(args):
    """Contract 3.1: unlike on inf1."""
    traced = torch_neuronx.trace(Convolution(), IMAGE, compiler_args=args)
    assert find_subgraphs(traced)[0].header.arithmetic.others == "bf16"


@pytest.mark.parametrize("args", ["--auto-kast all", "--auto-cast some", "--target inf1", "--lnc 2"])
def test_a_compiler_that_refuses_its_flags(args):
    """Contract 3.1, 10: neuronx-cc failed with 1."""
    with pytest.raises(RuntimeError, match="neuronx-cc failed with 1"):
        torch_neuronx.trace(Convolution(), IMAGE, compiler_args=args)


def test_nested_inputs_and_outputs():
    """Contract 3.1: example inputs are tensors or nested tuples; outputs keep their structure."""

    def model(a, pair):
        return a + pair[0], (pair[1] * 2, a)

    inputs = (torch.ones(2), (torch.ones(2), torch.ones(2)))
    total, (double, _) = torch_neuronx.trace(model, inputs)(*inputs)
    assert total.tolist() == double.tolist() == [2, 2]


def test_further_positional_arguments_are_tolerated():
    """Contract 3.1: with a warning."""
    with pytest.warns(UserWarning, match="takes keywords only"):
        torch_neuronx.trace(Convolution(), IMAGE, {}, None, "--auto-cast none")


def test_tracing_takes_cores_and_loads():
    """Contract 3.1: the module is on a core at the end of trace, the next one on the next core."""
    first, second = (torch_neuronx.trace(Convolution(), IMAGE) for _ in range(2))
    assert [find_subgraphs(each)[0].cores for each in (first, second)] == [[(0,)], [(1,)]]
    assert all(core["pid"] for core in describe_host()["cores"])


def test_tracing_for_a_chip_that_is_elsewhere():
    """Contract 3.1: cpu_backend needs --target, and takes no core; without it a host without devices cannot trace."""
    with pytest.raises(ValueError, match="--target"):
        torch_neuronx.trace(Convolution(), IMAGE, cpu_backend=True)
    torch_neuronx.trace(Convolution(), IMAGE, cpu_backend=True, compiler_args="--target trn1")
    assert all(core["pid"] is None for core in describe_host()["cores"])
    code = "import torch, torch_neuronx; torch_neuronx.trace(torch.nn.ReLU(), torch.rand(2))"
    assert "The PyTorch Neuron Runtime could not be initialized" in run_python(code, instance="").stderr


def test_unsupported_operators_raise():
    """Contract 3.1: there is no silent partitioning."""
    with pytest.raises(RuntimeError, match=r"neuronx-cc failed with 1: .*aten::sort"):
        torch_neuronx.trace(Sorted(), torch.rand(2, 6))


def test_shapes_that_depend_on_values_are_not_traceable():
    """Contract 3.1: nonzero."""
    with pytest.raises(RuntimeError, match="aten::nonzero"):
        torch_neuronx.trace(lambda x: torch.nonzero(x), torch.ones(3))


def test_a_partitioner_leaves_operators_to_the_processor():
    """Contract 3.2: PartitionerConfig enables it."""
    inputs, model = torch.rand(2, 6), Sorted()
    traced = torch_neuronx.trace(model, inputs, partitioner_config=torch_neuronx.PartitionerConfig())
    assert "aten::sort" in str(traced.graph)
    assert torch.allclose(traced(inputs), model(inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"model_support_percentage_threshold": 0.99}, "of the model's operators are supported"),
        ({"min_subgraph_size": 50}, "min_subgraph_size is 50"),
        ({"max_subgraph_count": 1, "ops_to_partition": {"aten::relu"}}, "max_subgraph_count is 1"),
    ],
)
def test_a_partition_beyond_its_limits(limits, message):
    """Contract 3.2: ValueError for share, size and count."""
    with pytest.raises(ValueError, match=message):
        torch_neuronx.trace(Sorted(), torch.rand(2, 6), partitioner_config=torch_neuronx.PartitionerConfig(**limits))


def test_analysis_is_the_documented_dictionary():
    """Contract 3.2: the keys, counts, and each failure with its kind and place."""
    found = torch_neuronx.analyze(Sorted(), torch.rand(2, 6))
    assert set(found) == {
        *("torch_neuronx_version", "neuronx_cc_version", "support_percentage"),
        *("supported_operators", "unsupported_operators"),
    }
    assert found["support_percentage"] == "75.00%"
    (failure,) = found["unsupported_operators"]
    assert set(failure) == {"kind", "failureAt", "call", "opGraph"}
    assert (failure["kind"], failure["failureAt"]) == ("aten::sort", "neuronx-cc")
    assert "test_torch_neuronx.py(" in failure["call"]
    assert (
        torch_neuronx.analyze(Sorted(), torch.rand(2, 6), additional_ignored_ops={"aten::sort"})["support_percentage"]
        == "100.00%"
    )


def test_state_stays_on_the_device():
    """Contract 3.1: input_output_aliases; the state is saved, not returned, and begins as the module's."""
    model = Counter()
    traced = torch_neuronx.trace(model, torch.ones(3), input_output_aliases={model.total: 1})
    assert [traced(torch.ones(3))[0].item() for _ in range(3)] == [2, 4, 6]


def test_dynamic_batches():
    """Contract 3.2: in place, the same object; smaller and larger batches, split and padded."""
    model = Convolution()
    traced = torch_neuronx.trace(model, torch.rand(2, 3, 8, 8))
    assert torch_neuronx.dynamic_batch(traced) is traced
    for rows in (1, 2, 5):
        image = torch.rand(rows, 3, 8, 8)
        assert torch.allclose(traced(image), model(image), atol=1e-5)


@pytest.mark.parametrize("reloaded", [False, True])
def test_what_dynamic_batches_cannot_be(tmp_path, reloaded):
    """Contract 3.2: ValueError for another dimension, and for first dimensions that differ; also after loading."""
    traced = torch_neuronx.dynamic_batch(torch_neuronx.trace(lambda a, b: a + b, (torch.rand(2, 3), torch.rand(2, 3))))
    if reloaded:
        torch.jit.save(traced, tmp_path / "m.pt")
        traced = torch.jit.load(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="dimension 0 only"):
        traced(torch.rand(2, 4), torch.rand(2, 4))
    with pytest.raises(ValueError, match="dimension 0 differs"):
        traced(torch.rand(2, 3), torch.rand(4, 3))


def test_separated_weights_can_be_replaced(tmp_path):
    """Contract 3.2: by a module or a state dict, in a loaded module; inlined ones only warn."""
    first, second = Convolution(), Convolution()
    with torch.no_grad():
        second.conv.weight.add_(1)
    traced = torch_neuronx.trace(first, IMAGE, inline_weights_to_neff=False)
    torch.jit.save(traced, tmp_path / "m.pt")
    loaded = torch.jit.load(tmp_path / "m.pt")
    torch_neuronx.replace_weights(loaded, second.state_dict())
    torch_neuronx.move_trace_to_device(loaded, 1)
    assert torch.allclose(loaded(IMAGE), second(IMAGE), atol=1e-5)
    assert find_subgraphs(loaded)[0].cores == [(1,)]
    with pytest.warns(UserWarning, match="no separated weights"):
        torch_neuronx.replace_weights(torch_neuronx.trace(first, IMAGE), second)


def test_replacing_with_other_weights_changes_nothing():
    """Names and shapes are compared before anything is copied."""
    traced = torch_neuronx.trace(Convolution(), IMAGE, inline_weights_to_neff=False)
    before = traced(IMAGE)
    with pytest.raises(ValueError, match=r"missing: \['conv.bias'\]"):
        torch_neuronx.replace_weights(traced, {"conv.weight": torch.zeros(4, 3, 3, 3)})
    assert torch.equal(traced(IMAGE), before)


@pytest.mark.parametrize("switch", ["lazy_load", "async_load"])
def test_loading_later(tmp_path, switch):
    """Contract 3.2: the flag travels in the saved module; a call waits for the load."""
    traced = torch_neuronx.trace(Convolution(), IMAGE)
    getattr(torch_neuronx, switch)(traced)
    torch.jit.save(traced, tmp_path / "m.pt")
    loaded = torch.jit.load(tmp_path / "m.pt")
    if switch == "lazy_load":
        assert find_subgraphs(loaded)[0].cores == []
    assert torch.allclose(loaded(IMAGE), Convolution()(IMAGE), atol=1e-5)
    assert len(find_subgraphs(loaded)[0].cores) == 1


def kernel(tensors: list[torch.Tensor]):
    """Pad rows to 4 or 8."""
    x = tensors[0]
    number = 0 if x.shape[1] <= 4 else 1
    size = 4 if number == 0 else 8
    return [torch.nn.functional.pad(x, [0, size - x.shape[1]])], torch.tensor([number])


def make_bucket_model():
    """A model for every bucket, without state."""
    return torch.nn.ReLU(), {}


def test_buckets_in_one_module(tmp_path):
    """Contract 3.3: the kernel pads and chooses; one module, saved and loaded."""
    config = torch_neuronx.BucketModelConfig(lambda *_: torch.jit.script(kernel))
    traced = torch_neuronx.bucket_model_trace(make_bucket_model, [torch.rand(1, 4), torch.rand(1, 8)], config)
    torch.jit.save(traced, tmp_path / "m.pt")
    loaded = torch.jit.load(tmp_path / "m.pt")
    assert loaded(torch.ones(1, 3)).tolist() == [[1, 1, 1, 0]]
    assert loaded(torch.ones(1, 5)).shape == (1, 8)


def test_each_bucket_has_its_keywords():
    """Contract 3.3: a list of func_kwargs is as long as the buckets."""
    config = torch_neuronx.BucketModelConfig(lambda *_: torch.jit.script(kernel), func_kwargs=[{}])
    with pytest.raises(ValueError, match="1 entries for 2 buckets"):
        torch_neuronx.bucket_model_trace(make_bucket_model, [torch.rand(1, 4), torch.rand(1, 8)], config)


def test_an_artefact_of_the_other_generation(monkeypatch):
    """Contract 2.6, 9.20: mutually unusable, status 2."""
    traced = torch_neuronx.trace(Convolution(), IMAGE, cpu_backend=True, compiler_args="--target inf2")
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf1.xlarge")
    with pytest.raises(RuntimeError, match="Could not load the model status=2 message=Invalid"):
        traced(IMAGE)
    assert get_runtime().instance.family == "inf1"
