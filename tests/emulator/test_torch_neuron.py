"""torch_neuron on the emulator: what AWS's page of its API says, rule by rule."""

import logging
import subprocess
import warnings

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import find_subgraphs
from neuron_emulator.runtime import describe_host, get_runtime

from tests.emulator.networks import Branching, Convolution, Embedding, Packed, run_python


def count(module: torch.jit.ScriptModule, kind: str) -> int:
    """Return how many nodes of a kind a traced module's graph has."""
    return len(module.graph.findAllNodes(kind, recurse=True))


def test_importing_makes_the_alias_and_takes_no_core():
    """Contract 2.1: torch.neuron is the same module; variables may still be set after the import."""
    assert torch.neuron is torch_neuron
    assert all(core["pid"] is None for core in describe_host()["cores"])


def test_import_torch_neuron_by_its_other_name():
    """Contract 2.1: either import works, in a process that has imported neither."""
    assert run_python("import torch, torch.neuron; print(torch.neuron.EMULATED)").stdout.strip() == "True"


@pytest.mark.parametrize(("instance", "expected"), [("inf1.xlarge", True), ("inf2.xlarge", False), ("", False)])
def test_is_available_tells_of_the_host(monkeypatch, instance, expected):
    """Contract 2.1: it exists, and knows which chips there are."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", instance)
    if not instance:
        monkeypatch.delenv("NEURON_EMULATOR_INSTANCE")
    assert torch_neuron.is_available() is expected


def test_a_lone_tensor_is_a_tuple_of_one():
    """Contract 2.2: example_inputs."""
    model = Convolution()
    inputs = torch.rand(1, 3, 8, 8)
    for example in (inputs, (inputs,), [inputs]):
        assert torch.allclose(torch_neuron.trace(model, example)(inputs), model(inputs), atol=0.05)


def test_functions_and_methods_compile_as_modules_do():
    """Contract 2.2: model is a module or a callable."""
    x, y = torch.rand(3), torch.rand(3)
    assert torch.allclose(torch_neuron.trace(lambda a, b: 2 * a + b, (x, y))(x, y), 2 * x + y, atol=0.05)
    model = Convolution()
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(torch_neuron.trace(model.forward, image)(image), model(image), atol=0.05)


def test_a_script_module_compiles_again():
    """Contract 2.2: already saved and reloaded ScriptModules are accepted."""
    image, model = torch.rand(1, 3, 8, 8), Convolution()
    traced = torch.jit.trace(model, image)
    assert torch.allclose(torch_neuron.trace(traced, image)(image), model(image), atol=0.05)


def test_numbers_are_bf16_by_default():
    """Contract 5.2: --fast-math all casts weights and activations; the flag is read."""
    image, model = torch.rand(1, 3, 8, 8), Convolution()
    loose = (torch_neuron.trace(model, image)(image) - model(image)).abs().max()
    tight = torch_neuron.trace(model, image, compiler_args=["--fast-math", "none"])(image) - model(image)
    assert float(loose) > float(tight.abs().max()) > 0


def test_embeddings_stay_on_the_processor_unless_forbidden():
    """Contract 2.5: taken out of the default set; fallback=False forces them onto the device."""
    ids, model = torch.tensor([[1, 2, 3]]), Embedding()
    traced = torch_neuron.trace(model, ids)
    assert (count(traced, "aten::embedding"), count(traced, "neuron::forward_v2_1")) == (1, 1)
    whole = torch_neuron.trace(model, ids, fallback=False)
    assert count(whole, "aten::embedding") == 0
    assert torch.allclose(traced(ids), model(ids), atol=0.05)
    assert torch.allclose(whole(ids), model(ids), atol=0.05)


def test_what_stays_is_visible_in_the_graph():
    """Contract 2.2: any aten:: operator left in model_neuron.graph runs on the processor."""
    traced = torch_neuron.trace(Branching(), torch.rand(4, 3), single_fusion_ratio_threshold=1.0)
    assert count(traced, "aten::erfinv") == 1
    assert count(traced, "aten::linear") == 0


def test_an_unsupported_operator_without_fallback():
    """Contract 2.2, 10: AttributeError."""
    with pytest.raises(AttributeError, match="aten::erfinv"):
        torch_neuron.trace(Branching(), torch.rand(4, 3), fallback=False)


def test_nothing_to_compile():
    """Contract 9.13, 10: the confirmed text."""
    text = "No operations were successfully partitioned and compiled to neuron for this model - aborting trace!"
    with pytest.raises(RuntimeError, match=text):
        torch_neuron.trace(torch.erfinv, torch.rand(3))


def test_small_segments_stay_on_the_processor():
    """Contract 2.2: minimum_segment_size is 2."""
    with pytest.raises(RuntimeError, match="No operations"):
        torch_neuron.trace(torch.relu, torch.rand(3))
    assert torch_neuron.trace(torch.relu, torch.rand(3), minimum_segment_size=1) is not None


def test_a_segment_with_most_operators_is_the_only_one():
    """Contract 2.2: single_fusion_ratio_threshold is 0.6, and 1.0 switches it off."""
    inputs = torch.rand(4, 3)
    assert len(find_subgraphs(torch_neuron.trace(Branching(before=6, after=2), inputs))) == 1
    both = torch_neuron.trace(Branching(before=6, after=2), inputs, single_fusion_ratio_threshold=1.0)
    assert len(find_subgraphs(both)) == 2
    assert torch.allclose(both(inputs), Branching(before=6, after=2)(inputs), atol=0.1)


def test_the_subgraph_builder_chooses_modules():
    """Contract 2.2: node.name is a tuple of module names, node.type_string the module's type."""
    seen = set()

    def choose(node):
        seen.add(node.type_string)
        return "Convolution" in node.name

    model = torch.nn.Sequential(Convolution(), torch.nn.Softplus(), torch.nn.Softplus()).eval()
    traced = torch_neuron.trace(model, torch.rand(1, 3, 8, 8), subgraph_builder_function=choose)
    assert count(traced, "aten::softplus") == 2
    assert {"Conv2d", "Convolution", "Softplus"} <= seen


def test_the_subgraph_builder_can_leave_modules_out():
    """Contract 2.2: asked of each operator with all the modules around it, as a public notebook does."""
    model = torch.nn.Sequential(Convolution(), torch.nn.Softplus(), torch.nn.Conv2d(4, 4, 1), torch.nn.ReLU()).eval()
    traced = torch_neuron.trace(
        model,
        torch.rand(1, 3, 8, 8),
        subgraph_builder_function=lambda node: "Convolution" not in node.name,
        single_fusion_ratio_threshold=1.0,
    )
    assert count(traced, "aten::_convolution") == 1


def test_the_log_is_what_kits_parse(caplog):
    """Contract 2.3: the templates of the logger named Neuron."""
    with caplog.at_level(logging.INFO, "Neuron"):
        torch_neuron.trace(Branching(), torch.rand(4, 3), single_fusion_ratio_threshold=1.0)
    text = caplog.text
    assert (
        "There are 1 ops of 1 different types in the TorchScript that are not compiled by neuron-cc: aten::erfinv"
        in text
    )
    assert "Number of arithmetic operators (pre-compilation) before = " in text
    assert "Compiling function _NeuronGraph$0 with neuron-cc" in text
    assert "Compiling with command line: 'neuron-cc compile " in text
    assert "--framework TENSORFLOW --pipeline compile SaveTemps --output" in text
    assert "Neuron successfully compiled 2 sub-graphs, Total fused subgraphs = 2, " in text
    assert " => aten::erfinv: 1 [not supported]" in text


def test_analysing_logs_and_compiles_nothing(caplog):
    """Contract 2.4: the two lines of the report."""
    with caplog.at_level(logging.INFO, "Neuron"):
        assert torch_neuron.analyze_model(Convolution(), torch.rand(1, 3, 8, 8)) is None
    assert "100.00% of all operations (including primitives) (" in caplog.text
    assert "100.00% of arithmetic operations (" in caplog.text
    assert "Compiling" not in caplog.text


def test_a_compiler_that_fails_falls_back(caplog):
    """Contract 2.3, 9.14: an ERROR with the command line, a WARNING, and the operators stay on the processor."""
    with pytest.raises(RuntimeError, match="No operations"):
        torch_neuron.trace(Convolution(), torch.rand(1, 3, 8, 8), compiler_args=["--fast-mat", "all"])
    assert "neuron-cc failed with the following command line call:" in caplog.text
    assert "torch.neuron.trace failed on _NeuronGraph$0; falling back to native python function call" in caplog.text
    assert "unrecognized arguments: --fast-mat" in caplog.text


def test_compiler_arguments_are_a_list():
    """Contract 2.2: on inf1 a list only."""
    with pytest.raises(TypeError, match="expected a list"):
        torch_neuron.trace(Convolution(), torch.rand(1, 3, 8, 8), compiler_args="--fast-math none")


def test_a_compiler_that_takes_too_long():
    """Contract 2.2, 10: subprocess.TimeoutExpired."""
    with pytest.raises(subprocess.TimeoutExpired):
        torch_neuron.trace(Convolution(), torch.rand(1, 3, 8, 8), compiler_timeout=1e-9)


def test_the_work_directory_keeps_what_the_compiler_said(tmp_path):
    """Contract 2.2: compiler_workdir keeps inputs and logs."""
    torch_neuron.trace(Convolution(), torch.rand(1, 3, 8, 8), compiler_workdir=tmp_path)
    assert [each.name for each in tmp_path.rglob("*.neff")] == ["graph_def.neff"]
    assert "neuron-cc compile" in next(iter(tmp_path.rglob("*.log"))).read_text()


def test_dynamic_batches_are_sliced_and_padded():
    """Contract 2.8: any number of rows; the record counts the padding."""
    model = Convolution()
    traced = torch_neuron.trace(model, torch.rand(4, 3, 8, 8), dynamic_batch_size=True)
    for rows in (1, 4, 7):
        image = torch.rand(rows, 3, 8, 8)
        assert torch.allclose(traced(image), model(image), atol=0.05)
    get_runtime().flush_record()
    core = next(each for each in describe_host()["cores"] if each["executions"])
    assert (core["executions"], core["items"], core["padded"]) == (4, 12, 4)


def test_inputs_with_other_first_dimensions_break_dynamic_batches():
    """Contract 2.8: the confirmed beginning of the message."""
    traced = torch_neuron.trace(
        lambda a, b: torch.relu(a) + b, (torch.rand(2, 3), torch.rand(2, 3)), dynamic_batch_size=True
    )
    with pytest.raises(RuntimeError, match="Inconsistent batch sizes found on inputs"):
        traced(torch.rand(4, 3), torch.rand(2, 3))


def test_a_reduction_over_the_batch_gives_other_numbers_in_dynamic_batches():
    """Contract 2.8: each chunk is reduced alone, without an error."""
    traced = torch_neuron.trace(
        lambda a: torch.relu(a) / torch.sum(a, 0, True), torch.ones(2, 3), dynamic_batch_size=True
    )
    assert torch.allclose(traced(torch.ones(4, 3)), torch.full((4, 3), 0.5), atol=0.01)


def test_a_pipelined_model_takes_its_cores():
    """Contract 2.11: --neuroncore-pipeline-cores contiguous ones."""
    image = torch.rand(1, 3, 8, 8)
    traced = torch_neuron.trace(Convolution(), image, compiler_args=["--neuroncore-pipeline-cores", "2"])
    traced(image)
    assert find_subgraphs(traced)[0].cores == [(0, 1)]


def test_the_list_of_supported_operators_is_the_public_one():
    """Contract 2.5: with the late additions, without embedding and without the limited ones."""
    names = torch_neuron.get_supported_operations()
    assert {"aten::tensordot", "aten::prelu", "aten::repeat", "aten::clamp_min", "aten::clamp_max"} <= set(names)
    assert not {"aten::embedding", "aten::one_hot", "aten::where", "aten::lstm"} & set(names)


def test_a_packed_output_that_escapes_is_warned_of(caplog):
    """Contract 2.9: the confirmed warning, and the LSTM stays; unpacked inside of the model it compiles without."""
    inputs = (torch.rand(5, 2, 3), torch.tensor([5, 3]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert count(torch_neuron.trace(Packed(unpack=True), inputs), "aten::lstm") == 0
        assert "consuming a PackedSequence" not in caplog.text
        assert count(torch_neuron.trace(Packed(unpack=False), inputs), "aten::lstm") == 1
    assert 'Operator "aten::lstm" consuming a PackedSequence input can only be supported when' in caplog.text


def test_a_missing_compiler(monkeypatch):
    """Contract 9.15, 10: the confirmed text, on demand."""
    monkeypatch.setenv("NEURON_EMULATOR_FAULT", "compiler-missing")
    with pytest.raises(RuntimeError, match=r"neuron-cc is installed and working properly\. You can"):
        torch_neuron.trace(Convolution(), torch.rand(1, 3, 8, 8))
