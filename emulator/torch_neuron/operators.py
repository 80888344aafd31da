"""Which operators neuron-cc takes, from the public list (``operators.json`` names its source)."""

import functools
import json
from pathlib import Path
from typing import Any

# What the traces of ordinary layers hold besides the names in the public list: layouts and spellings of one operator.
_SPELLINGS = {
    "aten::_convolution": "aten::_convolution",
    "aten::conv2d": "aten::_convolution",
    "aten::conv1d": "aten::_convolution",
    "aten::conv3d": "aten::_convolution",
    "aten::scaled_dot_product_attention": "aten::matmul",
}
_LIMITED = {
    "aten::one_hot": "num_classes must be known",
    "aten::where": "only in the form with three arguments",
    "aten::norm": "only for p = 1, 2, inf, -inf, 'fro'",
    "aten::lstm": "see the LSTM guide",
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
    return not _escaping_packed_output(node)


def _escaping_packed_output(node: Any) -> str:
    """Return the operator by which the packed output of an LSTM leaves, or "": it must be unused or unpacked."""
    if not is_packed_lstm(node):
        return ""
    allowed = ("aten::_pad_packed_sequence", "aten::lstm")
    return next((kind for kind in _find_users(next(iter(node.outputs()))) if kind not in allowed), "")


def _find_users(value: Any) -> list[str]:
    """Return the kinds of the nodes that use a value, also out of the tuples that a PackedSequence is."""
    found = []
    for use in value.uses():
        user = use.user
        if user.kind() != "prim::TupleConstruct":
            found.append(str(user.kind()))
            continue
        for outer in user.output().uses():
            if outer.user.kind() == "prim::TupleUnpack":
                found += _find_users(list(outer.user.outputs())[use.offset])
            else:
                found.append(str(outer.user.kind()))
    return found


def is_packed_lstm(node: Any) -> bool:
    """Whether an ``aten::lstm`` takes a packed sequence: its second argument is then a tensor of batch sizes."""
    inputs = list(node.inputs())
    return node.kind() == "aten::lstm" and len(inputs) > 1 and inputs[1].type().kind() == "TensorType"


def find_lstm_warnings(nodes: list[Any]) -> list[str]:
    """Return a warning for each LSTM whose packed output escapes.

    AWS docs: archive/torch-neuron/guides/torch-lstm-support.rst.
    """
    escapes = [each for each in map(_escaping_packed_output, nodes) if each]
    return [
        'Operator "aten::lstm" consuming a PackedSequence input can only be supported when its corresponding '
        'PackedSequence output is unused or unpacked using "aten::_pad_packed_input". '
        f'Found usage by "{each}"'
        for each in escapes
    ]
