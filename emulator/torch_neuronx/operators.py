"""Which operators neuronx-cc does not take, as far as AWS's public pages name them.

The public list of supported operators (frameworks/torch/torch-neuronx/pytorch-neuron-supported-operators.rst) is of the
operators after lowering, and far shorter than what compiles. What is documented as failing is listed here instead.
"""

from typing import Any

import torch

# Shapes that depend on values: AWS docs, api-torch-neuronx-trace.rst, "Fixed Tensor Shapes".
_SHAPES = frozenset(f"aten::{name}" for name in ("nonzero", "masked_select", "unique_consecutive", "unique_dim"))
_MORE_SHAPES = frozenset(f"aten::{name}" for name in ("_unique", "_unique2", "argwhere", "bincount"))
# AWS docs: api-torch-neuronx-trace.rst, the example of the graph partitioner; compiler/error-codes/EVRF001.rst.
_REFUSED = frozenset({"aten::sort", "aten::triangular_solve"})
_SHORT = frozenset({torch.uint8, torch.int8, torch.int16})
_INTEGERS = frozenset({*_SHORT, torch.int32, torch.int64, torch.bool})
# Refused for types of the first input. AWS docs: compiler/error-codes/EVRF013.rst, EVRF016.rst, EVRF022.rst.
_REFUSED_TYPES = {
    "aten::topk": ("NCC_EVRF013", frozenset({torch.int32, torch.int64})),
    "aten::scatter_reduce": ("NCC_EVRF016", _INTEGERS),
    "aten::scatter_reduce_": ("NCC_EVRF016", _INTEGERS),
    "aten::bitwise_right_shift": ("NCC_EVRF022", _SHORT),
}


def find_failure(node: Any) -> str:
    """Return where compiling a node of a traced graph (torch._C.Node) fails, in ``analyze``'s words, or ""."""
    kind = str(node.kind())
    if kind in _SHAPES or kind in _MORE_SHAPES:
        return "Lowering to HLO"
    return "neuronx-cc" if find_error_code(node) else ""


def find_error_code(node: Any) -> str:
    """Return the compiler's code for a node that it refuses, such as "NCC_EVRF001", or ""."""
    kind = str(node.kind())
    if kind in _REFUSED:
        return "NCC_EVRF001"
    # AWS docs: api-torch-neuronx-analyze.rst (fft), compiler/error-codes/EVRF004.rst.
    if kind.startswith("aten::fft_") or any(dtype.is_complex for dtype in _find_dtypes(node.outputs())):
        return "NCC_EVRF004"
    code, refused = _REFUSED_TYPES.get(kind, ("", frozenset()))
    return code if refused.intersection(_find_dtypes(list(node.inputs())[:1])) else ""


def _find_dtypes(values: Any) -> list[torch.dtype]:
    """Return the dtypes of those of a node's values that are tensors of a known dtype."""
    kinds = [value.type() for value in values if value.type().kind() == "TensorType"]
    return [kind.dtype() for kind in kinds if kind.dtype() is not None]
