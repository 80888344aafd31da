"""Which operators neuron-cc takes, from the public list (``operators.json`` names its source)."""

import functools
import json
from pathlib import Path
from typing import Any

from torch_neuron import lstm

# What the traces of ordinary layers hold besides the names in the public list: layouts and spellings of one operator.
_SPELLINGS = {
    "aten::_convolution": "aten::_convolution",
    "aten::conv2d": "aten::_convolution",
    "aten::conv1d": "aten::_convolution",
    "aten::conv3d": "aten::_convolution",
    "aten::scaled_dot_product_attention": "aten::matmul",
    "aten::linalg_vector_norm": "aten::norm",  # what torch.norm has become
}
_LIMITED = {
    "aten::one_hot": "num_classes must be known",
    "aten::where": "only in the form with three arguments",
    "aten::norm": "only for p = 1, 2, inf, -inf, 'fro'",
    "aten::max_pool3d_with_indices": "only if nothing uses the indices",
    **dict.fromkeys(lstm.OPERATORS, "see the LSTM guide"),
}


@functools.cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "operators.json").read_text())
    return found


def get_supported_operations() -> list[str]:
    """Return the names of the operators that the compiler takes without conditions, sorted."""
    return sorted(_table()["operators"])


def is_supported(node: Any, *, fallback: bool = True) -> bool:
    """Whether a node of a traced graph (torch._C.Node) can be compiled.

    Without ``fallback`` embeddings count as well: AWS took them out of the default for speed, not for want.
    """
    kind = node.kind()
    if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
        return _is_made_by_supported(next(iter(node.inputs())), fallback=fallback)
    if kind.startswith("prim::"):
        return False
    name = _SPELLINGS.get(kind, kind)
    if name == "aten::embedding":
        return not fallback
    if name in _LIMITED:
        return _fits_limits(name, node)
    known = set(_table()["operators"])
    return name in known or (name.endswith("_") and name[:-1] in known)


def _is_made_by_supported(value: Any, *, fallback: bool) -> bool:
    """Whether a list or tuple comes from what the compiler takes, such as aten::chunk, and not from the caller."""
    maker = value.node()
    constructed = maker.kind() in ("prim::ListConstruct", "prim::TupleConstruct")
    return constructed or is_supported(maker, fallback=fallback)


def _fits_limits(name: str, node: Any) -> bool:
    inputs = list(node.inputs())
    if name == "aten::one_hot":
        return inputs[1].toIValue() not in (None, -1)
    if name == "aten::where":
        return len(inputs) == 3
    if name == "aten::norm":
        return inputs[1].toIValue() in (1, 2, float("inf"), float("-inf"), "fro")
    if name == "aten::max_pool3d_with_indices":
        return not list(node.outputs())[1].uses()
    return lstm.is_supported(node)
