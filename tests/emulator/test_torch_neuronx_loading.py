"""torch_neuronx on the emulator: where models and separated weights are, and what DataParallel does with them."""

import threading

import pytest
import torch
import torch_neuronx
from neuron_emulator.modules import find_subgraphs
from neuron_emulator.runtime import describe_host

from tests.emulator.networks import Convolution

IMAGE = torch.rand(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _inf2(monkeypatch):
    """A host with the chips of this framework."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf2.xlarge")


def bytes_in(module, *inputs) -> int:
    """Return how many bytes a call moves to the device."""
    before = sum(core["bytes_in"] for core in describe_host()["cores"])
    module(*inputs)
    return sum(core["bytes_in"] for core in describe_host()["cores"]) - before


def trace_separated() -> torch.jit.ScriptModule:
    """Return a layer of 40,400 bytes whose weights are outside of the compiled code."""
    return torch_neuronx.trace(torch.nn.Linear(100, 100).eval(), torch.ones(1, 100), inline_weights_to_neff=False)


def test_separated_weights_go_along_with_each_call_until_they_are_moved():
    """Contract 3.2, 9.29: without move_trace_to_device weights are copied on every call."""
    traced = trace_separated()
    assert [bytes_in(traced, torch.ones(1, 100)) for _ in range(2)] == [400 + 40_400] * 2
    torch_neuronx.move_trace_to_device(traced, 0)
    assert bytes_in(traced, torch.ones(1, 100)) == 400


def test_loading_does_not_move_separated_weights(tmp_path):
    """Contract 3.2: the graph is loaded automatically, its weights are not, moved before the save or not."""
    traced = trace_separated()
    torch_neuronx.move_trace_to_device(traced, 0)
    torch.jit.save(traced, tmp_path / "m.pt")
    assert bytes_in(torch.jit.load(tmp_path / "m.pt"), torch.ones(1, 100)) == 400 + 40_400


def test_inlined_weights_are_on_the_device():
    """Contract 3.1: with the default, a call moves its inputs only."""
    traced = torch_neuronx.trace(torch.nn.Linear(100, 100).eval(), torch.ones(1, 100))
    assert bytes_in(traced, torch.ones(1, 100)) == 400


def test_data_parallel_unloads_the_model_that_it_copies():
    """Contract 3.2 (AWS docs: api-torch-neuronx-async-lazy-load.rst): first unloaded, then loaded on device_ids."""
    traced = torch_neuronx.trace(Convolution(), IMAGE)
    alone = sum(core["memory_bytes"] for core in describe_host()["cores"])
    parallel = torch_neuronx.DataParallel(traced, device_ids=[1])
    assert (find_subgraphs(traced)[0].cores, parallel.device_ids) == ([], [1])
    assert [core["memory_bytes"] for core in describe_host()["cores"]] == [0, alone]


@pytest.mark.parametrize("ids", [["nc:x"], [2], [-1], []])
def test_device_ids_that_are_no_cores(ids):
    """Contract 3.2: ints or 'nc:#' of this process."""
    traced = torch_neuronx.trace(Convolution(), IMAGE)
    with pytest.raises(ValueError, match="expected cores of this process: 0 to 1, or 'nc:0'"):
        torch_neuronx.DataParallel(traced, device_ids=ids)


def test_data_parallel_without_dynamic_batching():
    """Contract 3.2: set_dynamic_batching=False asks for input.shape[dim] / len(device_ids) rows as compiled."""
    parallel = torch_neuronx.DataParallel(torch_neuronx.trace(Convolution(), IMAGE), set_dynamic_batching=False)
    assert parallel(torch.rand(2, 3, 8, 8)).shape[0] == 2
    with pytest.raises(RuntimeError, match="Incorrect tensor shape at input #0"):
        parallel(torch.rand(4, 3, 8, 8))


def test_data_parallel_of_nested_inputs_and_outputs():
    """Contract 3.1, 3.2: each tensor is split, each output put together, the structure is kept."""
    traced = torch_neuronx.trace(lambda pair: {"sum": pair[0] + pair[1]}, ((torch.ones(1, 2), torch.ones(1, 2)),))
    rows = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(torch_neuronx.DataParallel(traced)((rows, rows))["sum"], 2 * rows)


def test_a_context_is_one_for_all_threads(tmp_path):
    """Contract 2.11, 3.2: not thread safe; a load of another thread goes where the context says."""
    torch.jit.save(torch_neuronx.trace(Convolution(), IMAGE), tmp_path / "m.pt")
    loaded = []
    with torch_neuronx.neuron_cores_context(start_nc=1):
        thread = threading.Thread(target=lambda: loaded.extend(torch.jit.load(tmp_path / "m.pt") for _ in range(2)))
        thread.start()
        thread.join()
    assert [find_subgraphs(each)[0].cores for each in loaded] == [[(1,)], [(1,)]]


def test_loading_lazily_and_in_the_background(tmp_path):
    """Contract 3.2: both switches together; nothing is on a core until the first call."""
    traced = torch_neuronx.trace(Convolution(), IMAGE)
    torch_neuronx.lazy_load(traced)
    torch_neuronx.async_load(traced)
    torch.jit.save(traced, tmp_path / "m.pt")
    loaded = torch.jit.load(tmp_path / "m.pt")
    assert find_subgraphs(loaded)[0].cores == []
    assert torch.allclose(loaded(IMAGE), Convolution()(IMAGE), atol=1e-5)


def test_a_load_in_the_background_can_be_moved(tmp_path):
    """Contract 3.2: moving waits for the load, and leaves no copy behind."""
    traced = torch_neuronx.trace(Convolution(), IMAGE, cpu_backend=True, compiler_args="--target inf2")
    torch_neuronx.async_load(traced)
    torch.jit.save(traced, tmp_path / "m.pt")
    loaded = torch.jit.load(tmp_path / "m.pt")
    torch_neuronx.set_neuron_cores(loaded, 1, 1)
    loaded(IMAGE)
    assert find_subgraphs(loaded)[0].cores == [(1,)]
    assert [bool(core["memory_bytes"]) for core in describe_host()["cores"]] == [False, True]
