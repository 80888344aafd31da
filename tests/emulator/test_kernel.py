"""What happens at a call of a compiled graph: checks, dynamic batches, faults, loads in time and in the background."""

import copy
import gc
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch_neuron
from neuron_emulator.modules import ASYNC, LAZY, find_subgraphs, place_subgraphs
from neuron_emulator.runtime import describe_host

from tests.emulator.networks import run_python


def double(x):
    """Return twice what is above nought."""
    return torch.relu(x) * 2


def trace(function, *inputs, **options):
    """Return a traced function."""
    return torch_neuron.trace(function, inputs, **options)


def reload(module):
    """Return a module saved and loaded again."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def used_cores():
    """Return the cores that have something in their memory."""
    return [core["core"] for core in describe_host()["cores"] if core["memory_bytes"]]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.rand(0, 3), r"Incorrect tensor shape at input #0: received \[0, 3\], expected \[2, 3\]"),
        (torch.rand(4, 2), r"Incorrect tensor shape at input #0: received \[4, 2\], expected \[2, 3\]"),
        (torch.rand(3), r"Incorrect tensor shape at input #0: received \[3\], expected \[2, 3\]"),
        (torch.rand(4, 3).half(), "Incorrect tensor dtype at input #0: received float16, expected float32"),
    ],
)
def test_a_dynamic_batch_leaves_only_its_size_open(batch, message):
    """Contract 2.2, 2.8: only dimension 0 becomes variable."""
    module = trace(double, torch.rand(2, 3), dynamic_batch_size=True)
    with pytest.raises(RuntimeError, match=message):
        module(batch)


def test_a_scalar_beside_a_dynamic_batch():
    """Contract 2.8, 9.10: scalars break dynamic batching, as inputs with other rows do."""
    module = trace(lambda x, y: double(x) + y, torch.rand(2, 3), torch.tensor(1.0), dynamic_batch_size=True)
    with pytest.raises(RuntimeError, match="Inconsistent batch sizes found on inputs: dimension 0 is 4, missing"):
        module(torch.rand(4, 3), torch.tensor(1.0))


def test_an_output_without_rows_cannot_be_put_together():
    """Contract 2.8: the compiled size works; the text for others is the emulator's."""
    module = trace(lambda x: (double(x), x.sum()), torch.rand(2, 3), dynamic_batch_size=True)
    assert module(torch.ones(2, 3))[1] == 6
    with pytest.raises(RuntimeError, match="Inconsistent batch sizes found on outputs: output #1"):
        module(torch.rand(4, 3))


def test_padding_is_nobodys_fault():
    """Contract 2.8: the last chunk is padded; what is computed of padding, here 0 / 0, does not fail the batch."""

    def shares(x):
        return double(x) / x.sum(1, True)

    module = trace(shares, torch.rand(2, 3), dynamic_batch_size=True)
    batch = torch.rand(3, 3) + 0.1
    assert torch.allclose(module(batch), shares(batch), atol=0.05)
    with pytest.raises(RuntimeError, match="status=1003 message=Numerical Error"):
        module(torch.zeros(3, 3))


def test_infinity_is_not_a_numerical_error():
    """Contract 5.2, 10: status 1003 is for NaN."""
    module = trace(lambda x: torch.log(torch.relu(x)), torch.ones(3))
    assert module(torch.zeros(3)).tolist() == [-float("inf")] * 3


def test_integers_and_truth_values_pass():
    """Contract 2.2: dtypes are those of the example."""
    module = trace(lambda ids, mask: (ids * 2 + 1, ~mask & (ids > 1)), torch.arange(3), torch.tensor([True] * 3))
    numbers, truth = module(torch.arange(3), torch.tensor([True, False, False]))
    assert (numbers.tolist(), truth.tolist()) == ([1, 3, 5], [False, False, True])


def test_a_fresh_trace_is_loaded_by_its_first_call():
    """Contract 2.12: a notebook's view; torch.jit.load loads at once, as tracebacks show."""
    module = trace(double, torch.rand(2, 3))
    assert find_subgraphs(module)[0].cores == []
    module(torch.rand(2, 3))
    assert find_subgraphs(module)[0].cores == [(0,)]
    assert find_subgraphs(reload(module))[0].cores == [(1,)]


def test_a_deleted_module_leaves_its_core():
    """Contract 4.2: memory is given back; the next module takes the core that is now least used."""
    first, second = (reload(trace(double, torch.rand(2, 3))) for _ in range(2))
    assert used_cores() == [0, 1]
    del first
    gc.collect()
    third = reload(trace(double, torch.rand(2, 3)))
    assert find_subgraphs(third)[0].cores == [(0,)]
    assert find_subgraphs(second)[0].cores == [(1,)]


def test_a_deep_copy_is_a_module_of_its_own():
    """Contract 2.11: it takes a core as a second load does."""
    module = reload(trace(double, torch.rand(2, 3)))
    other = copy.deepcopy(module)
    assert torch.equal(other(torch.ones(2, 3)), module(torch.ones(2, 3)))
    assert [find_subgraphs(each)[0].cores for each in (module, other)] == [[(0,)], [(1,)]]


def test_a_lazy_module_is_loaded_by_its_first_call():
    """Contract 3.2: the switch is saved with the module."""
    module = trace(double, torch.rand(2, 3))
    find_subgraphs(module)[0].set_flag(LAZY, True)
    module = reload(module)
    assert used_cores() == []
    module(torch.rand(2, 3))
    assert used_cores() == [0]


def test_many_threads_wait_for_one_load_in_the_background():
    """Contract 3.2: inference waits for the load; it is loaded once."""
    module = trace(double, torch.rand(2, 3))
    find_subgraphs(module)[0].set_flag(ASYNC, True)
    module = reload(module)
    place_subgraphs(module)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(module, [torch.ones(2, 3)] * 32))
    assert all(torch.equal(each, torch.full((2, 3), 2.0)) for each in found)
    assert find_subgraphs(module)[0].cores == [(0,)]


def test_a_load_that_fails_in_the_background_fails_the_call(monkeypatch):
    """Contract 3.2, 10: status 4 shows at the first call, and a later placement can succeed."""
    module = trace(double, torch.rand(2, 3))
    find_subgraphs(module)[0].set_flag(ASYNC, True)
    monkeypatch.setenv("NEURON_EMULATOR_FAULT", "oom")
    module = reload(module)
    with pytest.raises(RuntimeError, match="Could not load the model status=4 message=Allocation Failure"):
        module(torch.rand(2, 3))
    monkeypatch.delenv("NEURON_EMULATOR_FAULT")
    place_subgraphs(module, again=True)
    assert module(torch.ones(2, 3)).tolist() == [[2, 2, 2], [2, 2, 2]]


def test_threads_of_several_graphs_do_not_mix_their_rows():
    """Contract 4.2.4: threads inside the owner share cores; each gets its own answer."""

    def model(x):
        return torch.relu(torch.erfinv(double(x) * 0.3)) + 1

    options = {"minimum_segment_size": 1, "single_fusion_ratio_threshold": 1.0}
    module = trace(model, torch.rand(2, 3), **options)
    batches = [torch.rand(2, 3) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(module, batches))
    assert len(find_subgraphs(module)) == 2
    assert all(torch.allclose(one, model(batch), atol=0.05) for one, batch in zip(found, batches, strict=True))


def test_an_artefact_of_the_other_family(monkeypatch, tmp_path):
    """Contract 2.6, 9.20, 10: inf1 artefacts do not load on inf2."""
    path = tmp_path / "model.pt"
    trace(double, torch.rand(2, 3)).save(path)
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", "inf2.xlarge")
    with pytest.raises(RuntimeError, match="Could not load the model status=2 message=Invalid"):
        torch.jit.load(path)


def test_two_processes_compile_the_same_bytes():
    """The compiled code does not hold the process, the time or the folder that it was made in."""
    code = (
        "import hashlib, torch, torch_neuron\n"
        "from neuron_emulator.modules import find_subgraphs\n"
        "torch.manual_seed(0)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()).eval()\n"
        "neff = find_subgraphs(torch_neuron.trace(model, torch.ones(2, 3)))[0].neff\n"
        "print(hashlib.sha256(bytes(neff.numpy())).hexdigest())\n"
    )
    first, second = (run_python(code, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert len(first.stdout.strip()) == 64, first.stderr
    assert first.stdout == second.stdout
