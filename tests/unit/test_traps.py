"""Traps of a chip, planted in models, hosts and handlers: each is caught, with its place and the way out."""

import re
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from tracing.arithmetic import load_arithmetic
from tracing.handler_traps import find_handler_traps
from tracing.host_traps import HostFacts, find_host_traps, judge_host
from tracing.preflight import find_traps

FEATURES = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
SMALL = SimpleNamespace(name="inf1.xlarge", cores=4, device_gib_per_core=2.0)


class Planted(torch.nn.Module):
    """A layer and a trap."""

    def __init__(self, trap, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8, 4)
        self.trap = trap
        for name, module in modules.items():
            self.add_module(name, module)
        self.eval()

    def forward(self, features):
        return self.trap(self, features)


def find(model, *inputs, target="inf1", batch_sizes=(1, 2), keep=(), **more):
    options = more.pop("options", {})
    chosen = inputs or (FEATURES,)
    return find_traps(model, chosen, target=target, options=options, batch_sizes=batch_sizes, keep_on_cpu=keep, **more)


def branch(model, x):
    return model.layer(x) if x.sum() > 0 else -model.layer(x)


def pack(model, tokens):
    lengths = torch.full((tokens.shape[0],), 5)
    packed = torch.nn.utils.rnn.pack_padded_sequence(model.embed(tokens), lengths, batch_first=True)
    return model.lstm(packed)[0].data[: tokens.shape[0]]


def unpack(model, tokens):
    lengths = torch.full((tokens.shape[0],), 5)
    packed = torch.nn.utils.rnn.pack_padded_sequence(model.embed(tokens), lengths, batch_first=True)
    return torch.nn.utils.rnn.pad_packed_sequence(model.lstm(packed)[0], batch_first=True)[0]


def mask(model, x):
    scores = model.layer(x)
    return scores.masked_fill(scores < scores.mean(1, keepdim=True), float("-inf")).softmax(1)


def half(model):
    model.layer.half()
    return model


def huge(model):
    """Weights of 2 GB that take none: one number, seen many times."""
    model.register_parameter("table", torch.nn.Parameter(torch.zeros(1).expand(500_000_000)))
    return model


def plain(model, x):
    return model.layer(x)


RNN = {"embed": torch.nn.Embedding(9, 4), "lstm": torch.nn.LSTM(4, 4, batch_first=True)}

FAULTS = {  # number of the contract's section 9 and name -> model, inputs, options, message
    "control flow": (Planted(branch), (), {}, r"test_traps.py:\d+ takes a tensor's value into Python .* torch.where"),
    "number read": (Planted(lambda m, x: m.layer(x) * float(x.max())), (), {}, "takes a tensor's value into Python"),
    "values decide a shape": (Planted(lambda m, x: x[x > 0]), (), {}, "shape that index gives depends on values"),
    "nonzero": (Planted(lambda m, x: x.nonzero()), (), {}, "the shape that nonzero gives depends on values"),
    "10 other dimension 0": (
        Planted(plain),
        (FEATURES, torch.zeros(3)),
        {"dynamic_batch": True},
        r"the inputs have shapes \[2, 8\], \[3\]: .*Inconsistent batch sizes",
    ),
    "11 over dimension 0": (
        Planted(lambda m, x: m.layer(x) - m.layer(x).mean(0)),
        (),
        {"dynamic_batch": True},
        r"depends on the other items of its batch \(over dimension 0: mean at test_traps.py:\d+\)",
    ),
    "16 over 2 GB": (huge(Planted(plain)), (), {}, "weights take 2.00 GB, .* {'separate_weights': True}"),
    "19 half weights": (half(Planted(plain)), (), {}, "layer.weight is float16, .* use .float"),
    "24 memory": (
        huge(Planted(plain)),
        (),
        {"separate_weights": True, "cast": "none", "pipeline_cores": 2},
        "2 compiled modules of 500 million weights in 4 bytes take 1.9 GiB",
    ),
    "31 packed output escapes": (Planted(pack, **RNN), (TOKENS,), {}, "a packed sequence is not unpacked"),
    "33 list of tuples": (Planted(lambda m, x: [(x, x)]), (), {}, "output 0 is tuple, .* lists of tuples cannot be"),
    "34 train mode": (Planted(plain).train(), (), {}, "the model is in training mode, .* call eval"),
    "34 dropout in eval": (
        Planted(lambda m, x: torch.nn.functional.dropout(m.layer(x))),
        (),
        {},
        "draws random numbers in eval mode; pass training=self.training",
    ),
    "39 fixed batch": (
        Planted(lambda m, x: m.layer(x).view(2, 4)),
        (),
        {},
        "runs on a batch of 2 and not of 1: RuntimeError",
    ),
    "8 beyond 32 bits": (
        Planted(lambda m, x: x * 1.0),
        (torch.tensor([[2**40]]),),
        {},
        "input 0 holds 1099511627776, of which chips keep 32 bits",
    ),
    "complex numbers": (
        Planted(lambda m, x: torch.fft.fft(x).real),
        (),
        {},
        "makes complex numbers, which no chip has",
    ),
    "does not run": (Planted(lambda m, x: m.layer(x[:, :3])), (), {}, "does not run on a batch of 2: RuntimeError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name):
    """Contract 9, by number; each would fail or answer wrong on a chip."""
    model, inputs, options, message = FAULTS[name]
    instance = SimpleNamespace(name="small", cores=4, device_gib_per_core=1.5) if name.startswith("24") else None
    found = find(model, *inputs, options=options, instance=instance)
    assert_found(found.faults, message)


WARNINGS = {
    "8 int64": (Planted(lambda m, t: m.embed(t), **RNN), (TOKENS,), {}, "input 0 is int64, which chips hold as int32"),
    "12 embedding": (Planted(lambda m, t: m.embed(t), **RNN), (TOKENS,), {}, "leaves embeddings on the processor"),
    "17 argmax": (Planted(lambda m, x: m.layer(x).argmax(1)), (), {}, "argmax ranks numbers that the chip rounds"),
    "17 topk": (Planted(lambda m, x: m.layer(x).topk(2).values), (), {}, "topk ranks numbers that the chip rounds"),
    "18 mask": (Planted(mask), (), {}, r"test_traps.py:\d+: -inf, as of a mask, may become NaN .* mask with -1e4"),
    "no float64": (Planted(lambda m, x: m.layer(x).double()), (), {}, "gives float64, which no chip has"),
    "39 uneven": (Planted(plain), (), {"data_parallel": 2}, r"batch sizes \[1\] do not split evenly over 2 cores"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_planted_doubts_are_told(name):
    """Contract 9, by number; the certificate and the share of the processor decide."""
    model, inputs, options, message = WARNINGS[name]
    found = find(model, *inputs, options=options)
    assert found.faults == ()
    assert_found(found.warnings, message)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "target"),
    [
        (Planted(plain), (), {}, "inf1"),
        (Planted(lambda m, x: {"scores": m.layer(x)}), (), {}, "inf1"),  # number 32: a dictionary is fine
        (Planted(lambda m, x: m.layer(x).view(x.shape[0], 2, 2) if x.shape[1] == 8 else x), (), {}, "inf1"),
        (Planted(mask), (), {"compiler_args": ["--enable-saturate-infinity"]}, "inf1"),
        (Planted(lambda m, x: m.layer(x).argmax(1)), (), {"cast": "none"}, "inf2"),
        (Planted(lambda m, x: m.layer(x) * float(m.layer.bias.max())), (), {}, "inf1"),  # of a weight: a constant
        (torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), (torch.zeros(2, 3, 8),), {}, "inf1"),
    ],
)
def test_sound_models_have_no_traps(model, inputs, options, target):
    """Decisions by shapes and weights are the same for all requests."""
    found = find(model, *inputs, options=options, target=target)
    assert found.faults == found.warnings == ()


def test_an_unpacked_sequence_is_no_trap():
    """Contract 2.9: pad_packed_sequence inside of the model."""
    assert find(Planted(unpack, **RNN), TOKENS).faults == ()


def test_the_place_names_the_layer():
    """Also where the model has no code of its own."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), Planted(lambda m, x: x.argmax(1)))
    assert_found(find(model.eval()).warnings, r"test_traps.py:\d+ in 1: argmax")


def test_what_is_kept_on_the_cpu_is_not_judged():
    """Its numbers are exact; but it is traced, so that it must not branch on values."""
    ranking = Planted(lambda m, x: x.argmax(1))
    assert find(Planted(lambda m, x: m.end(m.layer(x)), end=ranking), keep=("end",)).warnings == ()
    branching = Planted(lambda m, x: x if x.sum() > 0 else -x)
    assert find(Planted(lambda m, x: m.end(m.layer(x)), end=branching), keep=("end",)).faults
    assert_found(find(Planted(plain), keep=("softmax",)).faults, "keep_on_cpu: the model has no submodule 'softmax'")


def test_the_model_is_left_as_it_was():
    """No hook stays behind."""
    model = Planted(branch)
    find(model)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_pipeline_cores_beyond_the_instance():
    """Contract 9 number 5 and formula 5.1: 4 * round(weights / 2e7)."""
    model = huge(Planted(plain))
    found = find(model, options={"pipeline_cores": "auto", "separate_weights": True}, instance=SMALL)
    assert_found(found.faults, r"pipeline_cores is 100, inf1.xlarge has 4; AWS's formula .* gives 100")


@pytest.mark.parametrize(
    ("target", "changed", "message"),
    [
        ("inf1", {"compiler": False}, "neuron-cc is not installed or not on PATH"),
        ("inf2", {"compiler": False}, "neuronx-cc is not installed or not on PATH"),
        ("inf1", {"python": (3, 11)}, "this is Python 3.11, torch-neuron ends at 3.10"),
        ("inf1", {"protobuf": "3.20.1"}, "protobuf 3.20.1 is installed, neuron-cc needs one before 3.20"),
        ("inf1", {"driver": "2.26.5.0"}, "driver 2.26.5.0 no longer knows inf1"),
        ("inf2", {"driver": "2.26.5.0"}, "driver 2.26.5.0 is too old for containers of SDK 2.30"),
    ],
)
def test_hosts_that_cannot_compile_or_serve(target, changed, message):
    """Contract 9 numbers 15, 22 and 23."""
    good = {
        "python": (3, 10),
        "protobuf": "3.19.5",
        "compiler": True,
        "driver": "2.24.7.0" if target == "inf1" else "2.28.1",
    }
    assert judge_host(target, HostFacts(**good)) == ((), ())
    faults, warnings = judge_host(target, HostFacts(**{**good, **changed}))
    assert_found(faults + warnings, message)
    assert len(faults + warnings) == 1


def test_only_the_real_sdk_is_judged(tmp_path, monkeypatch):
    """The emulator's torch_neuron lies beside it and needs no compiler; its arithmetic alone says nothing."""
    load_arithmetic()
    for name in [each for each in sys.modules if each.partition(".")[0] == "torch_neuron"]:
        monkeypatch.delitem(sys.modules, name)  # of other tests
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "torch_neuron").mkdir()
    (tmp_path / "torch_neuron" / "__init__.py").touch()
    assert_found(find_host_traps("inf1")[0], "neuron-cc is not installed")
    (tmp_path / "neuron_emulator").mkdir()
    assert find_host_traps("inf1") == ((), ())


LOADING = """
import os, torch, {package}
os.environ["NEURON_RT_NUM_CORES"] = "1"
model = torch.jit.load("model.pt")
"""


@pytest.mark.parametrize(
    ("source", "target", "separated", "message"),
    [
        (
            "import torch\nm = torch.jit.load('m.pt')",
            "inf1",
            False,
            "mine.py:2 loads a module without importing torch_neuron",
        ),
        ("import torch_neuron, torch\nm = torch.jit.load('m.pt')", "inf2", False, "without importing torch_neuronx"),
        (
            "import torch_neuron, torch\nm = torch.jit.load('m.pt')",
            "inf1",
            False,
            "sets neither NEURON_RT_NUM_CORES nor",
        ),
        (
            "import os, torch, torch_neuron\nm = torch.jit.load('m.pt')\nos.environ['NEURON_RT_NUM_CORES'] = '1'",
            "inf1",
            False,
            "mine.py:2 loads before line 3 sets NEURON_RT_NUM_CORES, which the runtime reads once",
        ),
        (LOADING + "os.fork()", "inf1", False, "before line 5 starts processes .*NRT_STATE_CHILD"),
        (
            LOADING + "from multiprocessing import Process\nProcess(target=print).start()",
            "inf1",
            False,
            "starts processes",
        ),
        (LOADING, "inf2", True, "never calls move_trace_to_device"),
        (
            LOADING + "torch.jit.save(model, 'n.pt')\ntorch_neuronx.lazy_load(model)",
            "inf2",
            False,
            "so that the flag is lost",
        ),
        (LOADING + "p = torch_neuronx.DataParallel(model)", "inf2", False, "line 5 of mine.py makes a DataParallel"),
        ("def broken(:", "inf1", False, "mine.py cannot be read as Python"),
    ],
)
def test_traps_in_a_handlers_source(tmp_path, source, target, separated, message):
    """Contract 9 numbers 1, 3, 4, 6, 26, 29 and 30; the source is read, not run."""
    file = tmp_path / "mine.py"
    file.write_text(source.replace("{package}", "torch_neuron" if target == "inf1" else "torch_neuronx"))
    faults, warnings = find_handler_traps(file, target, separated=separated)
    assert_found(faults + warnings, message)


@pytest.mark.parametrize("more", ["", "import subprocess\nsubprocess.run(['true'])", "model.num_workers = 2"])
def test_a_sound_handler_has_no_traps(tmp_path, more):
    """The variable first, then the import, then the module."""
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(LOADING.replace("{package}", "torch_neuron")) + more)
    assert find_handler_traps(file, "inf1") == ((), ())


def test_a_handlers_traps_are_among_the_models(tmp_path):
    """One call finds all."""
    file = tmp_path / "mine.py"
    file.write_text("import torch\nm = torch.jit.load('m.pt')")
    assert_found(find(Planted(plain), handler=file).warnings, "without importing torch_neuron")


def assert_found(sentences, message):
    assert any(re.search(message, each) for each in sentences), sentences
