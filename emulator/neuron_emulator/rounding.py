"""Values as a NeuronCore holds them: rounded to nearest even, in a tensor of the type it had."""

import torch

# AWS docs: about-neuron/arch/neuron-features/data-types.rst and compiler/neuronx-cc/api-reference-guide/index.rst.
TYPES = ("fp32", "bf16", "fp16", "tf32", "fp8_e4m3")
_TORCH_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# tf32 has fp32's exponent and 10 binary digits behind the point, where fp32 has 23.
_TF32_DROPPED = 13
# AWS docs: compiler/error-codes/EVRF051.rst: up to NeuronCore-v3 the type is F8E4M3, not F8E4M3FN. Its highest exponent
# means infinity, so 240 is the largest number; torch's float8_e4m3fn has no infinity and goes on to 448. Below that the
# two have the same numbers.
_E4M3_LARGEST = 240.0
_LARGEST = {
    "fp32": torch.finfo(torch.float32).max,
    "bf16": torch.finfo(torch.bfloat16).max,
    "fp16": torch.finfo(torch.float16).max,
    "tf32": (2 - 2**-10) * 2.0**127,
    "fp8_e4m3": _E4M3_LARGEST,
}


def round_to(tensor: torch.Tensor, dtype_name: str) -> torch.Tensor:
    """Return a floating tensor of the same dtype whose values are those of ``dtype_name``, one of ``TYPES``.

    Rounds to nearest, ties to even; what is too large becomes infinity; NaN stays NaN. The tensor itself is returned
    where nothing is to be rounded. Raises ``ValueError`` for an unknown type.
    """
    if dtype_name == "fp32":
        return tensor if tensor.dtype != torch.float64 else tensor.float().double()
    if dtype_name in _TORCH_TYPES:
        return tensor.to(_TORCH_TYPES[dtype_name]).to(tensor.dtype)
    if dtype_name == "tf32":
        return _round_to_tf32(tensor.float()).to(tensor.dtype)
    if dtype_name == "fp8_e4m3":
        return _round_to_e4m3(tensor.float()).to(tensor.dtype)
    raise ValueError(f"unknown type {dtype_name!r}, expected one of {', '.join(TYPES)}")


def saturate(tensor: torch.Tensor, dtype_name: str) -> torch.Tensor:
    """Return the tensor with infinities replaced by the largest number of ``dtype_name``; NaN stays NaN."""
    largest = min(_LARGEST[dtype_name], torch.finfo(tensor.dtype).max)
    return tensor.clamp(-largest, largest)


def narrow_integers(tensor: torch.Tensor) -> torch.Tensor:
    """Return an int64 tensor with what 32 bits keep of its values: larger ones wrap around, without a word.

    AWS docs: INT64 is silently handled as INT32 (compiler/neuronx-cc, ``--native-int64``).
    """
    return tensor.to(torch.int32).to(torch.int64)


def _round_to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    bits = tensor.contiguous().view(torch.int32)
    last_kept = (bits >> _TF32_DROPPED) & 1
    half = (1 << (_TF32_DROPPED - 1)) - 1  # with last_kept: up from above the middle, and from the middle if odd
    rounded = (bits + half + last_kept) & ~((1 << _TF32_DROPPED) - 1)
    return torch.where(tensor.isnan(), tensor, rounded.view(torch.float32))


def _round_to_e4m3(tensor: torch.Tensor) -> torch.Tensor:
    # torch's type makes NaN of what is too large: the next number after 240 stands for all that.
    rounded = tensor.clamp(-256.0, 256.0).to(torch.float8_e4m3fn).float()
    return torch.where(rounded.abs() > _E4M3_LARGEST, rounded * float("inf"), rounded)
