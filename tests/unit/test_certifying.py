"""The precision certificate: what a chip's arithmetic leaves of a model, and where it goes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tracing.arithmetic import computing_as_chip, load_arithmetic
from tracing.certifying import certify
from tracing.errors import RecipeError, VerificationError
from tracing.layers import measure_layers, relative_error
from tracing.recipe import CHIP_TOLERANCES, Tolerances

ROOT = Path(__file__).resolve().parents[2]
ITEMS = [(row,) for row in torch.randn(16, 8, generator=torch.Generator().manual_seed(3))]


class Offset(torch.nn.Module):
    """Adds a constant beside which the scores vanish in bf16: its numbers near 256 are 2 apart."""

    def forward(self, scores):
        return scores + 256.0


class Scorer(torch.nn.Module):
    """A small network with whatever end."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(8, 16)
        self.second = torch.nn.Linear(16, 4)
        self.end = end
        self.eval()

    def forward(self, features):
        return self.end(self.second(self.first(features).relu()))


def run(
    model, *, items=ITEMS, family="inf1", args=(), tolerances=CHIP_TOLERANCES, keep=(), activate=lambda outputs: outputs
):
    return certify(
        model,
        items,
        family=family,
        compiler_args=list(args),
        keep_on_cpu=keep,
        tolerances=tolerances,
        names=("scores",),
        activate=activate,
    )


def test_a_robust_model_passes():
    """With figures that are not zero: something was rounded."""
    found = run(Scorer(torch.nn.Identity()))
    assert found.compared == 16
    assert found.top1 == 1.0
    assert 0 < found.largest_error < 0.05
    assert 0.999 < found.least_cosine < 1
    assert found.summary().startswith("16 items, largest error")


def test_a_planted_model_fails_with_the_layer_and_the_way_out():
    """Contract 9 number 17: argmax flips in bf16."""
    with pytest.raises(VerificationError) as caught:
        run(Scorer(Offset()))
    text = str(caught.value)
    assert (
        "loses its accuracy in the chip's arithmetic (bf16 products, bf16 elsewhere): the largest output is another"
        in text
    )
    assert "at least 0.99 is asked for" in text
    assert "Worst layers by accumulated relative error: " in text
    assert "end " in text
    assert "the error arises at the end: with keep_on_cpu=('end',) it is within tolerance" in text
    assert "targets['inf1'] = {'cast': 'matmult'}" in text


class Fixed(torch.nn.Module):
    """Scores that do not depend on the request."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor([scores]))

    def forward(self, features):
        return self.scores * 1.0


def test_a_tie_is_no_flip():
    """Two scores that bf16 cannot tell apart: which one wins says nothing about the model."""
    found = run(Fixed(0.0, 1.0, 1.001, -1.0))
    assert found.flips == ()
    assert found.ties == tuple(range(16))
    assert found.top1 == 1.0


def test_a_constant_excuses_no_flip():
    """The same magnitude, but all of what tells the scores apart is lost."""
    with pytest.raises(
        VerificationError, match=r"another for 16 of 16 \(items 0, 1, 2, 3, 4, 5, ...\): top-1 agreement 0.0"
    ):
        run(Fixed(256.0, 256.4, 256.5, 255.9))


def test_the_planted_model_passes_with_its_end_kept_out():
    """The same weights, the same flags."""
    found = run(Scorer(Offset()), keep=("end",))
    assert found.top1 == 1.0
    assert found.kept_on_cpu == ("end",)
    assert all(layer.own == 0.0 for layer in found.worst_layers if layer.name == "end")


@pytest.mark.parametrize(
    ("family", "args"),
    [
        ("inf1", ["--fast-math", "fp32-cast-matmult"]),
        ("inf1", ["--fast-math", "none"]),
        ("inf2", []),
        ("inf2", ["--auto-cast", "matmult"]),
    ],
)
def test_a_stricter_cast_saves_the_planted_model(family, args):
    """Contract 5.2: step through the flags."""
    assert run(Scorer(Offset()), family=family, args=args).top1 == 1.0


def test_fp32_leaves_no_error():
    """Contract 5.2: inf2 casts nothing by default."""
    found = run(Scorer(torch.nn.Identity()), family="inf2")
    assert found.largest_error == 0.0
    assert found.figures()["max_abs_error"] == 0.0
    assert found.arithmetic["matmul"] == "fp32"


def test_the_next_step_of_inf2_is_its_own():
    """With cast matmult there is one step left."""
    strict = Tolerances(absolute=1e-9, relative=1e-9)
    with pytest.raises(VerificationError, match=r"targets\['inf2'\] = {'cast': 'none'} computes in fp32, slower"):
        run(Scorer(torch.nn.Identity()), family="inf2", args=["--auto-cast", "matmult"], tolerances=strict)


def test_a_number_out_of_tolerance_is_named():
    """With the item, what it is and what it should be."""
    strict = Tolerances(absolute=1e-9, relative=1e-9, cosine=0.0, top1=0.0)
    with pytest.raises(
        VerificationError, match=r"scores of item 0 is -?0\.\d+ instead of .* \(at most .* apart\)"
    ) as caught:
        run(Scorer(torch.nn.Identity()), tolerances=strict)
    assert "and 10 more" in str(caught.value)


def test_overflow_is_told_with_the_layer():
    """Contract 2.14: fp16 ends at 65504."""
    model = Scorer(torch.nn.Identity())
    model.second.weight.data *= 1e6
    with pytest.raises(VerificationError, match="holds NaN or infinity, the exact output does not") as caught:
        run(model, args=["--fast-math", "fp32-cast-all-fp16"])
    assert "second overflow" in str(caught.value)
    assert "add '--enable-saturate-infinity' to compiler_args" in str(caught.value)


def test_probabilities_that_do_not_sum_up_are_counted():
    """A softmax inside the model is rounded by the chip."""
    found = run(Scorer(torch.nn.Softmax(1)))
    assert 0 < found.probability_error < 0.05
    outside = run(Scorer(torch.nn.Identity()), activate=lambda outputs: (outputs[0].softmax(1),))
    assert outside.probability_error < 1e-6


def test_a_certificate_is_json_and_the_same_each_time():
    """It lies in an archive that is to have the same bytes."""
    first, second = (run(Scorer(Offset()), keep=("end",)).as_json() for _ in range(2))
    assert first == second == json.loads(json.dumps(first))
    assert first["arithmetic"]["matmul"] == "bf16"
    assert first["thresholds"]["top1"] == 0.99
    assert len(first["worst_layers"]) == 3
    assert set(first["figures"]) >= {"max_abs_error", "min_cosine", "top1_agreement", "compared"}


def test_layers_have_an_own_and_an_accumulated_error():
    """A layer that computes exactly has only what it inherits."""
    model = Scorer(torch.nn.ReLU())
    found = {each.name: each for each in measure_layers(model, ITEMS[:2], settings("bf16", "fp32"))}
    assert list(found) == ["first", "second", "end"]  # as they ran
    assert found["end"].own == 0.0 < found["end"].accumulated
    assert found["second"].accumulated > 0 < found["second"].own


def test_layers_that_run_twice_or_write_to_their_inputs_are_measured():
    """An in-place activation and a shared layer."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = torch.nn.Linear(8, 8)
            self.relu = torch.nn.ReLU(inplace=True)

        def forward(self, features):
            return self.shared(self.relu(self.shared(features)))

    torch.manual_seed(0)
    found = measure_layers(Twice().eval(), ITEMS[:1], settings("bf16", "bf16"))
    assert [each.name for each in found] == ["shared", "relu"]
    assert all(0 < each.own < 0.02 for each in found)


def test_a_model_without_submodules_is_a_layer():
    """Its name is empty."""
    (only,) = measure_layers(Offset(), ITEMS[:1], settings("bf16", "bf16"))
    assert only.name == ""
    assert only.own == only.accumulated > 0


@pytest.mark.parametrize(
    ("exact", "found", "error"),
    [
        ([4.0, 2.0], [4.0, 1.0], 0.25),
        ([0.0], [0.0], 0.0),
        ([0.0], [1.0], float("inf")),
        ([1.0], [float("nan")], float("inf")),
        ([float("inf"), 1.0], [float("inf"), 1.0], 0.0),
    ],
)
def test_errors_are_relative_to_the_largest_magnitude(exact, found, error):
    """Where the exact output is a number."""
    assert relative_error(torch.tensor(exact), torch.tensor(found)) == error


def test_encoder_layers_are_seen_step_by_step():
    """torch computes one in eval mode as a single operator, a chip does not; the setting is put back."""
    torch.manual_seed(0)
    layer, item = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(1, 5, 8)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Watch(), computing_as_chip(layer, settings("bf16", "bf16")):
        layer(item)
    assert "aten::bmm" in seen
    assert "aten::_transformer_encoder_layer_fwd" not in seen
    assert torch.backends.mha.get_fastpath_enabled()


def test_unknown_compiler_flags_are_a_fault_of_the_recipe():
    """With the values there are."""
    with pytest.raises(RecipeError, match="compiler_args: --fast-math fp8: unknown value, expected one of all, none"):
        run(Scorer(Offset()), args=["--fast-math", "fp8"])


def test_the_arithmetic_comes_without_the_frameworks():
    """Finding it must not make torch_neuron importable: that would be the emulator, unasked for."""
    code = (
        "from tracing.arithmetic import load_arithmetic; import importlib.util as u; a = load_arithmetic(); "
        "print(a.from_flags('inf1', []).matmul, u.find_spec('torch_neuron'), u.find_spec('torch_neuronx'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bf16", "None", "None"]


def settings(matmul, others):
    return load_arithmetic().Arithmetic(matmul=matmul, others=others)
