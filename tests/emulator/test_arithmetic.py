"""The chip's arithmetic: what is rounded, when, and what is left alone."""

import json
from dataclasses import asdict

import pytest
import torch
from neuron_emulator.arithmetic import Arithmetic, ChipMode, from_flags, round_to

BF16 = Arithmetic(matmul="bf16", others="bf16")
MATMUL_ONLY = Arithmetic(matmul="bf16", others="fp32")
PLAIN = Arithmetic(matmul="fp32", others="fp32")
INF = float("inf")


def run(function, *inputs, arithmetic=BF16):
    with torch.no_grad(), ChipMode(arithmetic):
        return function(*inputs)


def is_bf16(tensor):
    return torch.equal(tensor, tensor.bfloat16().float())


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("fp32", 1 + 2**-23, 1 + 2**-23),
        ("bf16", 1 + 2**-9, 1.0),
        ("bf16", 1 + 2**-8, 1.0),  # a tie: to even
        ("bf16", 1 + 3 * 2**-8, 1 + 2**-6),  # a tie: to even, upwards
        ("bf16", -(1 + 3 * 2**-9), -(1 + 2**-7)),
        ("bf16", 3.4e38, INF),
        ("fp16", 1 + 2**-11, 1.0),
        ("fp16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("fp16", 65519.0, 65504.0),
        ("fp16", 65520.0, INF),
        ("fp16", 2**-25, 0.0),
        ("tf32", 1 + 2**-11, 1.0),
        ("tf32", 1 + 3 * 2**-11, 1 + 2**-9),
        ("tf32", 1 + 2**-11 + 2**-20, 1 + 2**-10),
        ("tf32", -INF, -INF),
        ("tf32", 3.4028234e38, INF),
        ("fp8_e4m3", 1.0625, 1.0),
        ("fp8_e4m3", 1.1875, 1.25),
        ("fp8_e4m3", 247.0, 240.0),
        ("fp8_e4m3", 248.0, INF),
        ("fp8_e4m3", -500.0, -INF),
        ("fp8_e4m3", 2**-10, 0.0),
    ],
)
def test_values_are_rounded_to_nearest_even(dtype, value, expected):
    """Contract 1.4: RNE; what is too large overflows to infinity."""
    assert round_to(torch.tensor([value]), dtype).item() == expected


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "tf32", "fp8_e4m3"])
def test_rounding_keeps_nan_and_the_tensors_type(dtype):
    """And a value that is rounded already."""
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        found = round_to(torch.tensor([float("nan"), 0.5], dtype=kind), dtype)
        assert found.dtype == kind
        assert found.isnan().tolist() == [True, False]
        assert found[1] == 0.5


def test_an_unknown_type_is_named():
    """With those there are."""
    with pytest.raises(ValueError, match="unknown type 'int4', expected one of fp32, bf16, fp16, tf32, fp8_e4m3"):
        round_to(torch.ones(1), "int4")
    with pytest.raises(ValueError, match="unknown type 'int4'"):
        ChipMode(Arithmetic(matmul="int4", others="fp32"))


@pytest.mark.parametrize(
    ("family", "args", "matmul", "others"),
    [
        ("inf1", [], "bf16", "bf16"),
        ("inf1", ["--fast-math", "all"], "bf16", "bf16"),
        ("inf1", ["--fast-math", "none"], "bf16", "fp32"),
        ("inf1", ["--fast-math", "fp32-cast-matmult", "no-fast-relayout"], "bf16", "fp32"),
        ("inf1", ["--fast-math=fp32-cast-matmult-fp16"], "fp16", "fp32"),
        ("inf1", ["--fast-math fp32-cast-all-fp16"], "fp16", "fp16"),
        ("inf1", ["--fast-math", "no-fast-relayout"], "bf16", "bf16"),
        ("inf1", ["--fast-math", "all", "--fp32-cast", "matmult"], "bf16", "fp32"),  # the deprecated one wins
        ("inf1", ["--fp32-cast=matmult-fp16", "--fast-math", "none"], "fp16", "fp32"),
        ("inf1", ["--neuroncore-pipeline-cores", "4"], "bf16", "bf16"),
        ("inf2", [], "fp32", "fp32"),
        ("inf2", ["--auto-cast", "none", "--auto-cast-type", "fp16"], "fp32", "fp32"),
        ("inf2", ["--auto-cast", "matmult"], "bf16", "fp32"),
        ("inf2", ["--auto-cast=all"], "bf16", "bf16"),
        ("inf2", ["--auto-cast", "matmult", "--auto-cast-type", "tf32"], "tf32", "fp32"),
        ("inf2", ["--auto-cast=matmult --auto-cast-type=fp8_e4m3"], "fp8_e4m3", "fp32"),
        ("inf2", ["--auto-cast", "all", "--auto-cast-type", "fp16", "--optlevel", "1"], "fp16", "fp16"),
    ],
)
def test_flags_choose_the_types(family, args, matmul, others):
    """Contract 2.14, 3.4, 5.2."""
    assert from_flags(family, args) == Arithmetic(matmul=matmul, others=others)


@pytest.mark.parametrize(
    ("family", "args", "message"),
    [
        ("inf1", ["--fast-math", "fp8"], "--fast-math fp8: unknown value, expected one of all, none"),
        ("inf1", ["--fp32-cast", "none"], "--fp32-cast none: unknown value, expected one of all, all-fp16"),
        ("inf2", ["--auto-cast", "bf16"], "--auto-cast bf16: unknown value, expected one of none, matmult, all"),
        ("inf2", ["--auto-cast-type", "int8"], "--auto-cast-type int8: unknown value"),
        ("gpu", [], "unknown family 'gpu', expected 'inf1' or 'inf2'"),
    ],
)
def test_unknown_flag_values_are_named(family, args, message):
    """With those there are."""
    with pytest.raises(ValueError, match=message):
        from_flags(family, args)


@pytest.mark.parametrize("family", ["inf1", "inf2"])
def test_switches_of_both_compilers(family):
    """Contract 2.14 and 3.4: infinity and 64-bit integers."""
    found = from_flags(family, ["--enable-saturate-infinity", "--native-int64"])
    assert found.saturate_infinity
    assert not found.int64_as_int32


def test_settings_survive_json():
    """They lie in artefacts."""
    assert Arithmetic(**json.loads(json.dumps(asdict(BF16)))) == BF16


def test_a_product_is_summed_in_fp32():
    """Contract 1.4: inputs bf16, accumulation fp32; bf16 sums would stand still at 256."""
    ones = torch.ones(1, 1000)
    assert run(torch.mm, ones, ones.t(), arithmetic=MATMUL_ONLY).item() == 1000.0
    assert run(torch.mm, ones, ones.t()).item() == 1000.0


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: torch.mm(x, w.t()),
        lambda x, w: torch.nn.functional.linear(x, w, torch.zeros(2)),
        lambda x, w: torch.einsum("ij,kj->ik", x, w),
        lambda x, w: x @ w.t(),
        lambda x, w: torch.bmm(x[None], w.t()[None])[0],
        lambda x, w: torch.baddbmm(torch.zeros(1, 1, 1), x[None], w.t()[None])[0],
        lambda x, w: torch.nn.functional.conv1d(x[..., None], w[..., None]).flatten(1),
        lambda x, w: torch.nn.functional.conv2d(x[..., None, None], w[..., None, None]).flatten(1),
        lambda x, w: torch.nn.functional.conv_transpose1d(x[..., None], w.t()[..., None]).flatten(1),
        lambda x, w: torch.zeros(1, 2).addmm_(x, w.t()),
    ],
)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_operands_of_products_are_rounded_and_results_are_not(function, context):
    """Contract 2.14: fp32-cast-matmult casts what goes into the tensor engine."""
    x, w = random(1, 8), random(2, 8, seed=1)
    with context(), ChipMode(MATMUL_ONLY):
        found = function(x, w)
    expected = torch.mm(x.bfloat16().float(), w.bfloat16().float().t())
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, torch.mm(x, w.t()), rtol=1e-6, atol=1e-6)
    assert not is_bf16(found)


def test_a_bias_is_no_operand():
    """The tensor engine multiplies; another adds."""
    bias = torch.tensor([1 + 2**-20])
    found = run(torch.nn.functional.linear, torch.zeros(1, 4), torch.zeros(1, 4), bias, arithmetic=MATMUL_ONLY)
    assert found.item() == 1 + 2**-20


def test_everything_is_rounded_where_all_is_cast():
    """Contract 5.2: inf1 casts weights and activations."""
    assert run(lambda x: x + 2**-9, torch.ones(1)).item() == 1.0
    assert is_bf16(run(torch.exp, random(50)))
    assert run(torch.relu, torch.tensor([1 + 2**-9])).item() == 1.0  # an input that is no bf16 number
    assert run(lambda x: x + 2**-9, torch.ones(1), arithmetic=MATMUL_ONLY).item() == 1 + 2**-9


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (torch.nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True), (random(2, 6, 8),)),
        (torch.nn.GRU(8, 4, batch_first=True), (random(2, 6, 8),)),
        (torch.nn.MultiheadAttention(8, 2, batch_first=True), (random(2, 5, 8),) * 3),
        (torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (random(2, 5, 8),)),
        (
            torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()),
            (random(1, 3, 6, 6),),
        ),
        (torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.GELU()), (random(2, 8),)),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes of these layers are fixed
def test_layers_give_bf16_numbers_near_those_of_fp32(module, inputs):
    """In eager mode, under inference_mode and as TorchScript."""
    module.eval()
    with torch.no_grad():
        expected = _first(module(*inputs))
        scripted = torch.jit.trace(module, inputs, check_trace=False)
    with torch.inference_mode(), ChipMode(BF16):
        fused = _first(module(*inputs))
    for found in (_first(run(module, *inputs)), _first(run(scripted, *inputs)), fused):
        assert is_bf16(found)
        assert 0 < float((found - expected).abs().max()) < 0.05


def _first(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else _first(outputs[0])


def test_an_lstm_rounds_its_state_at_each_step():
    """Not only what goes in and comes out: the state is multiplied, so it is rounded."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(4, 4, batch_first=True).eval()
    sequence = random(1, 12, 4)
    whole = run(module, sequence)[0]
    state, outputs = None, []
    for step in sequence.split(1, dim=1):
        found, state = run(module, step, state)
        outputs.append(found)
    assert torch.equal(whole, torch.cat(outputs, 1))


def test_attention_rounds_its_weights():
    """Between its two products, where a fused operator would keep fp32."""
    q, k, v = (random(1, 1, 6, 4, seed=seed) for seed in range(3))
    found = run(torch.nn.functional.scaled_dot_product_attention, q, k, v, arithmetic=MATMUL_ONLY)
    half = [each.bfloat16().float() for each in (q * 4**-0.25, k * 4**-0.25, v)]
    weights = (half[0] @ half[1].transpose(2, 3)).softmax(-1)
    assert torch.allclose(found, weights.bfloat16().float() @ half[2], atol=1e-6)


def test_functions_of_torchscript_are_seen_through():
    """A module that was saved and loaded computes as it does in Python."""

    def scale(x):
        return (x / 3.0).softmax(-1) * 7.0

    scripted = torch.jit.trace(scale, torch.ones(2, 5))
    assert torch.equal(run(scripted, random(2, 5)), run(scale, random(2, 5)))


def test_operators_in_place_stay_in_place():
    """Aliases see the rounded value."""
    x = torch.ones(4)
    view = x[1:3]
    found = run(lambda each: each.add_(2**-9).mul_(3), view)
    assert found.data_ptr() == view.data_ptr()
    assert x.tolist() == [1.0, 3.0, 3.0, 1.0]


def test_views_stay_views():
    """A write through a view reaches its base."""

    def fill(x):
        base = x + 0.0
        base[:, 1].fill_(0.1)
        return base

    found = run(fill, torch.zeros(2, 2))
    assert found.tolist() == [[0.0, torch.tensor(0.1).bfloat16().item()]] * 2


def test_inputs_and_weights_are_not_changed():
    """The mode rounds copies."""
    module, x = torch.nn.Linear(4, 4), random(2, 4)
    weight, before = module.weight.detach().clone(), x.clone()
    run(module, x)
    assert torch.equal(module.weight, weight)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("value", "expected"), [(2**31, -(2**31)), (2**32 + 5, 5), (-(2**31) - 1, 2**31 - 1), (2**31 - 1, 2**31 - 1)]
)
def test_int64_wraps_around_at_32_bits(value, expected):
    """Contract 1.4: silently handled as INT32."""
    number = torch.tensor([value])
    assert run(lambda x: x + 0, number, arithmetic=PLAIN).tolist() == [expected]
    native = from_flags("inf2", ["--native-int64"])
    assert run(lambda x: x + 0, number, arithmetic=native).tolist() == [value]


def test_fp32_changes_nothing():
    """Contract 5.2: inf2 casts nothing by default."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Softmax(1)).eval()
    with torch.no_grad():
        assert torch.equal(run(module, random(3, 8), arithmetic=PLAIN), module(random(3, 8)))


def test_a_mask_of_infinity_is_no_nan():
    """Contract 5.2: masks became NaN before 2.5.0 only, and the frozen version is later."""
    scores = torch.tensor([[1.0, 1.0, -INF]])
    assert run(lambda x: x.softmax(1), scores).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("family", ["inf1", "inf2"])
def test_saturation_keeps_infinity_out(family):
    """Contract 2.14: --enable-saturate-infinity keeps infinity finite, so that it does not become NaN."""
    masked = torch.full((1, 2), -INF)
    assert run(lambda x: x.softmax(1), masked, arithmetic=from_flags(family, [])).isnan().all()
    saturated = from_flags(family, ["--enable-saturate-infinity"])
    assert run(lambda x: x.softmax(1), masked, arithmetic=saturated).tolist() == [[0.5, 0.5]]
    assert run(lambda x: x * 1e38, torch.tensor([1e5]), arithmetic=saturated).isfinite().all()


def test_a_pause_computes_as_the_processor_does():
    """For modules that are kept off the chip; pauses nest."""
    x = torch.ones(1)
    with torch.no_grad(), ChipMode(BF16) as mode:
        with mode.pause(), mode.pause():
            assert (x + 2**-9).item() == 1 + 2**-9
        assert (x + 2**-9).item() == 1.0


def test_what_is_no_tensor_passes():
    """Comparisons, sizes and numbers come out as they are."""
    assert run(lambda x: (x > 0).tolist(), torch.tensor([1.0, -1.0])) == [True, False]
    assert run(lambda x: int(x.argmax()), torch.tensor([0.0, 3.0])) == 1
    assert run(lambda x: x.topk(1).indices.tolist(), torch.tensor([0.0, 3.0])) == [1]


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("inference", [True, False])
def test_resizing_takes_its_neighbours_from_the_right_place(mode, inference):
    """Coordinates are fixed when a graph is compiled: those over 256 are not rounded to what bf16 can tell apart."""
    picture = torch.linspace(0, 1, 512).reshape(1, 1, 1, 512).expand(1, 1, 4, 512).contiguous()

    def double(x):
        return torch.nn.functional.interpolate(x, scale_factor=2, mode=mode)

    exact = double(picture)
    with torch.inference_mode(inference):
        found = run(double, picture)
    assert is_bf16(found)
    assert float((found - exact).abs().max()) < 2**-8
