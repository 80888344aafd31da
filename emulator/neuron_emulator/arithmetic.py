"""What a NeuronCore's arithmetic does to a model's numbers, for any module: eager or TorchScript.

The tensor engine multiplies in the matmul type and adds up in fp32; the other engines read and write the other type
(AWS docs: about-neuron/arch/neuron-hardware/neuron-core-v1.rst and neuron-core-v2.rst). Here the values are rounded and
the computing is fp32's, so that rounding is the chip's and the order of additions is the processor's.

Imports torch and nothing but torch: the kit's build half uses this file without the rest of the emulator.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from neuron_emulator.rounding import TYPES, narrow_integers, round_to, saturate

__all__ = ["TYPES", "Arithmetic", "ChipMode", "from_flags", "round_to"]

# AWS docs: compiler/neuron-cc/command-line-reference.rst. "matmult" leaves the type to the compiler, which has bf16.
_FAST_MATH = {
    "all": ("bf16", "bf16"),
    "none": ("bf16", "fp32"),
    "fp32-cast-all": ("bf16", "bf16"),
    "fp32-cast-all-fp16": ("fp16", "fp16"),
    "fp32-cast-matmult": ("bf16", "fp32"),
    "fp32-cast-matmult-bf16": ("bf16", "fp32"),
    "fp32-cast-matmult-fp16": ("fp16", "fp32"),
}
_RELAYOUT = ("fast-relayout", "no-fast-relayout")  # moves data, changes no number
_FP32_CAST = ("all", "all-fp16", "matmult", "matmult-bf16", "matmult-fp16")
_AUTO_CAST = ("none", "matmult", "all")
_AUTO_CAST_TYPES = ("bf16", "fp16", "tf32", "fp8_e4m3")

# The arguments that go to the tensor engine; a bias is added by another.
_OPERANDS = {
    **dict.fromkeys(
        ("mm", "bmm", "mv", "dot", "vdot", "convolution", "_convolution", "linear", "mkldnn_linear"), (0, 1)
    ),
    **dict.fromkeys(("_convolution_mode", "mkldnn_convolution", "convolution_overrideable", "_linear"), (0, 1)),
    **dict.fromkeys(("addmm", "addmv", "addbmm", "baddbmm", "addr", "_addmm_activation"), (1, 2)),
    **dict.fromkeys(("addmm_", "addmv_", "addbmm_", "baddbmm_", "addr_"), (1, 2)),
    "_trilinear": (0, 1, 2),
}
# One operator each for what the chip does in many steps: computed in those steps, each with its rounding.
_FUSED_ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu",)
_FUSED_LSTM = ("mkldnn_rnn_layer",)
# Whole layers that torch's encoder runs at once in eval mode. Their steps are not seen: all operands are rounded.
_FUSED_LAYERS = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
# Resizing by fixed factors: torch's parts would compute coordinates in the graph, rounded like values: wrong from 128
# on. Shapes are fixed when a graph is compiled, and so are the weights of the neighbours.
_RESIZING = ("upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "upsample_linear1d")
_LSTM = 2  # torch's number of the kind of a recurrent layer


@dataclass(frozen=True)
class Arithmetic:
    """The types that a compiled graph computes in."""

    matmul: str  # of what goes into a matrix product or convolution; sums are fp32 on every chip
    others: str  # of weights, inputs, outputs and everything between
    saturate_infinity: bool = False  # infinity becomes the largest number, so that it cannot become NaN
    int64_as_int32: bool = True  # no engine has 64-bit integers


def from_flags(family: str, compiler_args: Sequence[str]) -> Arithmetic:
    """Return what a compiler's flags ask for; ``family`` is "inf1" (neuron-cc) or "inf2" (neuronx-cc, trn1 too).

    inf1 casts all to bf16 unless told otherwise, inf2 casts nothing (AWS docs: the compilers' command line references).
    Flags that do not change numbers are ignored; raises ``ValueError`` for an unknown value of one that does.
    """
    words = [word for arg in compiler_args for word in re.split(r"[\s=]+", arg) if word]
    if family == "inf1":
        matmul, others = _read_neuron_cc(words)
    elif family == "inf2":
        matmul, others = _read_neuronx_cc(words)
    else:
        raise ValueError(f"unknown family {family!r}, expected 'inf1' or 'inf2'")
    return Arithmetic(
        matmul=matmul,
        others=others,
        saturate_infinity="--enable-saturate-infinity" in words,
        int64_as_int32="--native-int64" not in words,
    )


class ChipMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Computes as the chip does inside a ``with``.

    >>> with ChipMode(Arithmetic(matmul="bf16", others="bf16")):
    ...     torch.ones(1) + 2**-9
    tensor([1.])

    Views stay views and operators in place stay in place, so that aliases see what they see without the mode. An
    attention mask of -inf gives what IEEE arithmetic gives, as on inf1 since 2.5.0 and on inf2 (before, it gave NaN;
    AWS docs: release-notes/archive/torch-neuron.rst): NaN only for a row that is masked whole, or where infinities are
    subtracted.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        for name in (arithmetic.matmul, arithmetic.others):
            if name not in TYPES:
                raise ValueError(f"unknown type {name!r}, expected one of {', '.join(TYPES)}")
        self.arithmetic = arithmetic
        self._paused = 0
        self._narrows = arithmetic.others != "fp32" or arithmetic.saturate_infinity

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Compute as the processor does inside a ``with``: for modules that are kept off the chip."""
        self.leave()
        try:
            yield
        finally:
            self.resume()

    def leave(self) -> None:
        """Compute as the processor does until ``resume``; calls nest. For hooks, which cannot hold a ``with``."""
        self._paused += 1

    def resume(self) -> None:
        """End what ``leave`` began."""
        self._paused -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator. Any: the signature is torch's, and arguments are those of any operator."""
        args, kwargs = _restore_numbers(func, args), kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name not in _OPERANDS and name not in _RESIZING and func._can_decompose():
            # Under inference_mode operators such as linear and attention arrive whole; without it, in their parts.
            with self:
                return func.decompose(*args, **kwargs)
        steps = self._find_steps(name, args, kwargs)
        if steps is not None:
            with self:
                return steps()
        written = _find_written(func, args, kwargs)
        if not written and any(each.alias_info is not None for each in func._schema.returns):
            return func(*args, **kwargs)  # a view: what it shows is rounded where it was computed or will be read
        args, kwargs = self._round_arguments(name, args, kwargs, written)
        outputs = func(*args, **kwargs)
        if not written:
            return tree_map_only(torch.Tensor, self._narrow, outputs)
        for tensor in written:
            narrowed = self._narrow(tensor)
            if narrowed is not tensor:
                tensor.copy_(narrowed)
        return outputs

    def _find_steps(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
        if name in _FUSED_ATTENTION:
            return lambda: _attend(*args, **kwargs)
        if name in _FUSED_LSTM and args[9] == _LSTM:
            return lambda: _run_lstm_layer(*args, **kwargs)
        return None

    def _round_arguments(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], written: Sequence[torch.Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def narrow(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if any(tensor is each for each in written) else self._narrow(tensor)

        args, kwargs = tree_map_only(torch.Tensor, narrow, (args, kwargs))
        operands = range(len(args)) if name in _FUSED_LAYERS else _OPERANDS.get(name, ())
        return tuple(self._cast_operand(each) if index in operands else each for index, each in enumerate(args)), kwargs

    def _narrow(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor as any engine holds it."""
        if tensor.is_floating_point():
            return self._round(tensor, self.arithmetic.others) if self._narrows else tensor
        if tensor.dtype == torch.int64 and self.arithmetic.int64_as_int32:
            return narrow_integers(tensor)
        return tensor

    def _cast_operand(self, value: Any) -> Any:
        """Return an argument as the tensor engine takes it. Any: what is no floating tensor is returned as it is."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value if self.arithmetic.matmul == "fp32" else self._round(value, self.arithmetic.matmul)

    def _round(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        rounded = round_to(tensor, name)
        return saturate(rounded, name) if self.arithmetic.saturate_infinity else rounded


def _read_neuron_cc(words: Sequence[str]) -> tuple[str, str]:
    deprecated = _values_of("--fp32-cast", words)
    if deprecated:  # wins over --fast-math where both are given
        _check_values("--fp32-cast", deprecated, _FP32_CAST)
        return _FAST_MATH[f"fp32-cast-{deprecated[-1]}"]
    values = _values_of("--fast-math", words)
    _check_values("--fast-math", values, (*_FAST_MATH, *_RELAYOUT))
    casts = [value for value in values if value not in _RELAYOUT]
    return _FAST_MATH[casts[-1] if casts else "all"]


def _read_neuronx_cc(words: Sequence[str]) -> tuple[str, str]:
    casts = _values_of("--auto-cast", words) or ["none"]
    types = _values_of("--auto-cast-type", words) or ["bf16"]
    _check_values("--auto-cast", casts, _AUTO_CAST)
    _check_values("--auto-cast-type", types, _AUTO_CAST_TYPES)
    matmul = "fp32" if casts[-1] == "none" else types[-1]
    return matmul, types[-1] if casts[-1] == "all" else "fp32"


def _values_of(flag: str, words: Sequence[str]) -> list[str]:
    found = []
    for index, word in enumerate(words):
        if word == flag:
            for value in words[index + 1 :]:
                if value.startswith("--"):
                    break
                found.append(value)
    return found


def _check_values(flag: str, values: Sequence[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"{flag} {value}: unknown value, expected one of {', '.join(known)}")


def _restore_numbers(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments with tensors where TorchScript had them: torch hands numbers in tensors over as numbers."""
    if not any(isinstance(each, (int, float)) for each in args):
        return args
    name = func._schema.name.removeprefix("aten::")
    if torch._C._should_allow_numbers_as_tensors(name):
        return args
    expected = [str(each.type) for each in func._schema.arguments]
    return tuple(
        torch.tensor(value) if isinstance(value, (int, float)) and expected[index] == "Tensor" else value
        for index, value in enumerate(args)
    )


def _find_written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the arguments that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    found: list[Any] = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            found += value if isinstance(value, (list, tuple)) else [value]
    return [each for each in found if isinstance(each, torch.Tensor)]


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention computed step by step, and an empty tensor for the sums that only a gradient needs."""
    outputs, _ = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout, is_causal, None, scale=scale
    )
    return outputs, query.new_empty(0)


def _run_lstm_layer(
    sequence: torch.Tensor, w_in: torch.Tensor, w_state: torch.Tensor, b_in: torch.Tensor, b_state: torch.Tensor,
    hidden: torch.Tensor, cell: torch.Tensor, reverse: bool, *_: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return what ``aten::mkldnn_rnn_layer`` does for one direction of an LSTM; ``sequence`` has time first."""
    state, memory = hidden.reshape(hidden.shape[-2:]), cell.reshape(cell.shape[-2:])
    steps = list(sequence.unbind(0))
    outputs = []
    for step in reversed(steps) if reverse else steps:
        gates = torch.addmm(b_in, step, w_in.t()) + torch.addmm(b_state, state, w_state.t())
        enter, forget, candidate, leave = gates.chunk(4, 1)
        memory = forget.sigmoid() * memory + enter.sigmoid() * candidate.tanh()
        state = leave.sigmoid() * memory.tanh()
        outputs.append(state)
    stacked = torch.stack(outputs[::-1] if reverse else outputs)
    return stacked, state.reshape(hidden.shape), memory.reshape(cell.shape), sequence.new_empty(0)
