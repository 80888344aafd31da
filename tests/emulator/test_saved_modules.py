"""Modules saved by either framework: loaded with and without it, run right and wrong, on one core and on several."""

import gc
import threading

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import find_subgraphs
from neuron_emulator.runtime import describe_host, get_runtime

from tests.emulator.networks import Convolution, Embedding, run_python

IMAGE = torch.rand(1, 3, 8, 8)


@pytest.fixture
def saved(tmp_path):
    """A traced module's file."""
    path = tmp_path / "model.pt"
    torch_neuron.trace(Convolution(), IMAGE).save(path)
    return path


def test_loading_without_the_import(saved):
    """Contract 2.6, 10: the confirmed message, with the newer operator's name."""
    errors = run_python(f"import torch; torch.jit.load({str(saved)!r})", emulator=False).stderr
    assert "Unknown builtin op: neuron::forward_v2_1." in errors
    assert (
        "Could not find any similar ops to neuron::forward_v2_1. "
        "This op may not exist or may not be currently supported in TorchScript." in errors
    )


@pytest.mark.parametrize("module", ["torch_neuron", "torch.neuron"])
def test_loading_with_the_import(saved, module):
    """Contract 2.1: any process that has imported the framework."""
    code = f"import torch, {module}; print(torch.jit.load({str(saved)!r})(torch.ones(1, 3, 8, 8)).shape)"
    assert "torch.Size([1, 4, 6, 6])" in run_python(code).stdout


def test_loading_on_a_host_without_devices(saved):
    """Contract 4.4, 9.2: the three lines, at torch.jit.load, and the runtime's line on stderr."""
    errors = run_python(f"import torch, torch_neuron; torch.jit.load({str(saved)!r})", instance="").stderr
    assert (
        "RuntimeError: The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged\n"
        "to your system logs. See the Neuron Runtime's troubleshooting guide for help on this\n"
        "topic: https://awsdocs-neuron.readthedocs-hosted.com/en/latest/" in errors
    )
    assert "TDRV:tdrv_get_dev_info" in errors


def test_modules_are_loaded_in_turn(saved):
    """Contract 2.11: torch.jit.load puts each on the least-used core, in linear order; then they stack."""
    modules = [torch.jit.load(saved) for _ in range(5)]
    assert [find_subgraphs(each)[0].cores for each in modules] == [[(0,)], [(1,)], [(2,)], [(3,)], [(0,)]]


def test_a_module_that_is_gone_gives_its_memory_back(saved):
    """Contract 4.2.2: memory, but not the cores, which stay with the process."""
    module = torch.jit.load(saved)
    del module
    gc.collect()
    torch.jit.load(saved)
    get_runtime().flush_record()
    assert sum(bool(core["memory_bytes"]) for core in describe_host()["cores"]) <= 1
    assert all(core["pid"] for core in describe_host()["cores"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.rand(2, 3, 8, 8),
            r"Incorrect tensor shape at input #0: received \[2, 3, 8, 8\], expected \[1, 3, 8, 8\]",
        ),
        (torch.rand(1, 3, 8), "Incorrect tensor shape at input #0"),
        (torch.rand(1, 3, 8, 8).double(), "Incorrect tensor dtype at input #0: received float64, expected float32"),
    ],
)
def test_wrong_inputs_are_errors_of_the_interpreter(saved, image, message):
    """Contract 2.7: the wrapper of TorchScript, the frame, and the inner message."""
    module = torch.jit.load(saved)
    with pytest.raises(RuntimeError, match=message) as caught:
        module(image)
    assert "The following operation failed in the TorchScript interpreter" in str(caught.value)
    assert "ops.neuron.forward_v2_1(" in str(caught.value)
    assert "~~~ <--- HERE" in str(caught.value)


def test_a_missing_input_is_an_ordinary_error(saved):
    """Contract 2.7: TorchScript's own."""
    with pytest.raises(RuntimeError, match="missing value for argument"):
        torch.jit.load(saved)()


def test_nan_is_a_numerical_error():
    """Contract 5.2, 10: status 1003, and counted."""
    traced = torch_neuron.trace(lambda x: torch.sqrt(torch.relu(x) - 1), torch.ones(3))
    with pytest.raises(RuntimeError, match="Failed to execute the model status=1003 message=Numerical Error"):
        traced(torch.zeros(3))


def test_an_index_beyond_the_table_is_out_of_bounds():
    """Contract 4.4, 10: status 1006."""
    traced = torch_neuron.trace(Embedding(), torch.tensor([[1, 2]]), fallback=False)
    with pytest.raises(RuntimeError, match="status=1006 message=Execution Out-Of-Bounds Memory Access"):
        traced(torch.tensor([[1, 99]]))


def test_fusers_of_the_processor_do_not_get_in(saved):
    """Contract 5.2: a process that has switched them on, as for models of the processor, still sees bf16."""
    exact = Convolution()(IMAGE)
    torch.jit.enable_onednn_fusion(True)
    try:
        module = torch.jit.load(saved)
        assert all(float((module(IMAGE) - exact).abs().max()) > 1e-4 for _ in range(4))
    finally:
        torch.jit.enable_onednn_fusion(False)


def test_threads_share_a_module(saved):
    """Contract 4.2.4: threads inside the owner may share a core."""
    module, expected, found = torch.jit.load(saved), Convolution()(IMAGE), []
    threads = [threading.Thread(target=lambda: found.append(module(IMAGE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(torch.allclose(each, expected, atol=0.05) for each in found)


def test_a_forked_child_cannot_run_what_its_parent_loaded(saved):
    """Contract 4.7, 9.6: the TorchScript error, and NRT_STATE_CHILD in the log."""
    code = (
        "import os, torch, torch_neuron\n"
        f"m = torch.jit.load({str(saved)!r})\n"
        "if os.fork() == 0:\n"
        "    m(torch.ones(1, 3, 8, 8))\n"
        "else:\n"
        "    os.wait()\n"
    )
    errors = run_python(code).stderr
    assert "Incompatible runtime state: NRT_STATE_CHILD" in errors
    assert "The following operation failed in the TorchScript interpreter" in errors


def test_importing_before_a_fork_is_harmless(saved):
    """Contract 4.7: import may precede the fork, load must follow it."""
    code = (
        "import os, torch, torch_neuron\n"
        "if os.fork() == 0:\n"
        f"    print(torch.jit.load({str(saved)!r})(torch.ones(1, 3, 8, 8)).shape, flush=True)\n"
        "else:\n"
        "    os.wait()\n"
    )
    assert "torch.Size([1, 4, 6, 6])" in run_python(code).stdout


def test_the_same_model_gives_the_same_bytes(tmp_path):
    """Two traces of one process: the compiled code does not hold where and when it was made."""
    first, second = (torch_neuron.trace(Convolution(), IMAGE) for _ in range(2))
    assert torch.equal(find_subgraphs(first)[0].neff, find_subgraphs(second)[0].neff)
