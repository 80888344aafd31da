"""Which operators neuronx-cc does not take, as far as AWS's public pages name them.

The public list of supported operators (frameworks/torch/torch-neuronx/pytorch-neuron-supported-operators.rst) is of the
operators after lowering, and far shorter than what compiles. What is documented as failing is listed here instead.
"""

from typing import Any

# Shapes that depend on values: AWS docs, api-torch-neuronx-trace.rst, "Fixed Tensor Shapes".
_SHAPES = frozenset(f"aten::{name}" for name in ("nonzero", "masked_select", "unique_consecutive", "unique_dim"))
_MORE_SHAPES = frozenset(f"aten::{name}" for name in ("_unique", "_unique2", "argwhere", "bincount"))
# AWS docs: api-torch-neuronx-trace.rst, the example of the graph partitioner.
_REFUSED = frozenset({"aten::sort"})


def find_failure(node: Any) -> str:
    """Return where compiling a node of a traced graph (torch._C.Node) fails, in ``analyze``'s words, or ""."""
    kind = str(node.kind())
    if kind in _SHAPES or kind in _MORE_SHAPES:
        return "Lowering to HLO"
    # AWS docs: api-torch-neuronx-analyze.rst (fft), compiler/error-codes (EVRF004, complex types).
    if kind in _REFUSED or kind.startswith("aten::fft_") or _is_complex(node):
        return "neuronx-cc"
    return ""


def _is_complex(node: Any) -> bool:
    for value in node.outputs():
        kind = value.type()
        dtype = kind.dtype() if kind.kind() == "TensorType" else None
        if dtype is not None and dtype.is_complex:
            return True
    return False
