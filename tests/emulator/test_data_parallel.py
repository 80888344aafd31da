"""DataParallel and placement, which both frameworks share: cores of the process, parts of a batch, their errors."""

import warnings

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import find_subgraphs
from neuron_emulator.runtime import describe_host, get_runtime

from tests.emulator.networks import Convolution, run_python

IMAGE = torch.rand(1, 3, 8, 8)


def trace(rows: int = 1, **options):
    return torch_neuron.trace(Convolution(), torch.rand(rows, 3, 8, 8), **options)


def executions() -> list[int]:
    """Return how often each core has run."""
    get_runtime().flush_record()
    return [core["executions"] for core in describe_host()["cores"]]


def test_all_cores_of_the_process_by_default():
    """Contract 2.10: device_ids, num_workers = 2 x cores."""
    parallel = torch_neuron.DataParallel(trace())
    assert (parallel.device_ids, parallel.num_workers) == ([0, 1, 2, 3], 8)


def test_a_batch_is_spread_and_put_together_in_order():
    """Contract 2.10: any batch, by dynamic batching; each part has batch // cores rows."""
    parallel, model = torch_neuron.DataParallel(trace()), Convolution()
    for rows in (1, 4, 7, 16):
        image = torch.rand(rows, 3, 8, 8)
        assert torch.allclose(parallel(image), model(image), atol=0.05)
    assert all(executions())


def test_split_size_sets_the_parts():
    """Contract 2.10: two parts of eight run on the first two cores."""
    parallel = torch_neuron.DataParallel(trace(8))
    parallel.split_size = 8
    parallel(torch.rand(16, 3, 8, 8))
    assert executions() == [1, 1, 0, 0]


@pytest.mark.parametrize("ids", [[2], ["nc:2"]])
def test_cores_are_numbered_inside_the_process(monkeypatch, ids):
    """Contract 2.10: with VISIBLE_CORES=1-3, nc:2 is the host's core 3, and nc:3 is nobody's."""
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "1-3")
    traced = trace()
    parallel = torch_neuron.DataParallel(traced, device_ids=ids)
    parallel(IMAGE)
    assert executions() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="expected cores of this process: 0 to 2"):
        torch_neuron.DataParallel(traced, device_ids=["nc:3"])


def test_without_dynamic_batching_parts_have_the_compiled_size():
    """Contract 2.10: input.shape[dim] / len(device_ids) is the compiled shape."""
    parallel = torch_neuron.DataParallel(trace(2), device_ids=[0, 1])
    parallel.disable_dynamic_batching()
    image = torch.rand(4, 3, 8, 8)
    assert torch.allclose(parallel(image), Convolution()(image), atol=0.05)
    with pytest.raises(RuntimeError, match="Incorrect tensor shape at input #0"):
        parallel(torch.rand(6, 3, 8, 8))


def test_along_another_dimension():
    """Contract 2.10: dim != 0 is allowed, and dynamic batching is off, with a warning."""
    with pytest.warns(UserWarning, match="dynamic batching is off"):
        parallel = torch_neuron.DataParallel(trace(), device_ids=[0, 1], dim=2)
    image = torch.rand(1, 3, 16, 8)
    assert parallel(image).shape == (1, 4, 12, 6)


def test_an_error_names_its_core():
    """Contract 2.10, 10: Caught RuntimeError on neuroncore 3, and the original traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel = torch_neuron.DataParallel(trace(), device_ids=[3])
    with pytest.raises(RuntimeError, match=r"Caught RuntimeError on neuroncore 3\.\nOriginal Traceback \(most recent"):
        parallel(torch.rand(1, 3, 9, 9))


def test_loading_first_adds_a_copy(tmp_path):
    """Contract 2.10, 9.25: torch.jit.load has put one on a core already; memory adds up."""
    trace().save(tmp_path / "m.pt")
    torch_neuron.DataParallel(torch.jit.load(tmp_path / "m.pt"))
    get_runtime().flush_record()
    assert sum(core["loads"] for core in describe_host()["cores"]) == 5


def test_without_a_runtime():
    """Contract 2.10, 10: the confirmed text."""
    code = (
        "import torch, torch_neuron\n"
        "m = torch_neuron.trace(torch.nn.Conv2d(1, 1, 1), torch.rand(1, 1, 2, 2), minimum_segment_size=1)\n"
        "torch_neuron.DataParallel(m)\n"
    )
    text = "Neuron runtime cannot be initialized; cannot determine the number of available NeuronCores"
    assert f"RuntimeError: {text}" in run_python(code, instance="").stderr


def test_a_module_moves_to_the_cores_it_is_given():
    """Contract 2.11: nc_count larger than the model's cores replicates, used round robin."""
    traced = trace()
    torch_neuron.experimental.set_neuron_cores(traced, 2, 2)
    for _ in range(3):
        traced(IMAGE)
    assert executions() == [0, 0, 2, 1]


def test_all_cores_for_one_module():
    """Contract 2.11: set_multicore."""
    traced = trace()
    torch_neuron.experimental.set_multicore(traced)
    assert find_subgraphs(traced)[0].cores == [(0,), (1,), (2,), (3,)]


def test_contexts_place_what_is_loaded_inside_of_them(tmp_path):
    """Contract 2.11: torch.jit.load alone; afterwards the default order goes on."""
    trace().save(tmp_path / "m.pt")
    with torch_neuron.experimental.neuron_cores_context(start_nc=3):
        inside = torch.jit.load(tmp_path / "m.pt")
    with torch_neuron.experimental.multicore_context():
        everywhere = torch.jit.load(tmp_path / "m.pt")
    assert find_subgraphs(inside)[0].cores == [(3,)]
    assert len(find_subgraphs(everywhere)[0].cores) == 4


def test_placing_a_plain_module_does_nothing():
    """Contract 2.11."""
    torch_neuron.experimental.set_neuron_cores(torch.nn.ReLU(), 0, 1)
    assert executions() == [0, 0, 0, 0]


@pytest.mark.parametrize(("start", "count", "error"), [(0, 9, ValueError), (9, 1, RuntimeError), (0, 0, ValueError)])
def test_cores_that_are_not_there(start, count, error):
    """Contract 2.11: ValueError for a bad nc_count, RuntimeError for a bad start_nc; texts are the emulator's."""
    with pytest.raises(error):
        torch_neuron.experimental.set_neuron_cores(trace(), start, count)


def test_the_runtime_as_a_class(tmp_path):
    """As public examples use it: how many cores there are, and where modules go from now on."""
    runtime = torch.classes.neuron.Runtime()
    runtime.initialize()
    assert runtime.get_visible_nc_count() == 4
    trace().save(tmp_path / "m.pt")
    runtime.set_default_neuron_cores(2, 1)
    try:
        assert find_subgraphs(torch.jit.load(tmp_path / "m.pt"))[0].cores == [(2,)]
    finally:
        runtime.set_default_neuron_cores(-1, -1)
