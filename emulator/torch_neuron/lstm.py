"""LSTMs over packed sequences: which ones a chip of fixed shapes can run.

AWS docs: archive/torch-neuron/guides/torch-lstm-support.rst. A packed sequence has as many rows as its lengths add up
to, so that it must not leave the compiled graph: packing, the LSTM and unpacking go there together or not at all.
"""

from collections.abc import Sequence
from typing import Any

from neuron_emulator.graphs import Node, Value

_LSTM, _PACK, _UNPACK = "aten::lstm", "aten::_pack_padded_sequence", "aten::_pad_packed_sequence"
OPERATORS = (_LSTM, _PACK, _UNPACK)


def is_supported(node: Node) -> bool:
    """Whether one of ``OPERATORS`` can be compiled."""
    if node.kind() == _PACK:
        users = _find_users(next(iter(node.outputs())))
        return all(user.kind() == _LSTM and is_supported(user) for user in users)
    if node.kind() == _UNPACK:
        maker = next(iter(node.inputs())).node()
        return bool(maker.kind() == _LSTM) and is_supported(maker)
    return not _find_escape(node)


def find_lstm_warnings(nodes: Sequence[Node]) -> list[str]:
    """Return the documented warning for each LSTM among ``nodes`` whose packed output escapes."""
    return [
        'Operator "aten::lstm" consuming a PackedSequence input can only be supported when its corresponding '
        'PackedSequence output is unused or unpacked using "aten::_pad_packed_input". '
        f'Found usage by "{escape}"'
        for escape in map(_find_escape, nodes)
        if escape
    ]


def fix_unpacked_lengths(graph: Any) -> None:
    """Let a graph (torch._C.Graph) unpack sequences to the length that they were packed from, not to the longest's.

    AWS docs, as above: on Neuron "computation is fixed to the maximum length ahead of time".
    """
    for node in graph.findAllNodes(_UNPACK, recurse=False):
        _, batch_sizes, _, _, length = node.inputs()
        packing = batch_sizes.node()
        if packing.kind() != _PACK or length.node().kind() == "prim::Constant":  # a constant: the program's own
            continue
        padded, _, batch_first = packing.inputs()
        graph.setInsertPoint(node)
        dimension = graph.insertConstant(int(batch_first.toIValue()))
        size = graph.insertNode(graph.create("aten::size", [padded, dimension], 1)).output()
        size.setType(length.type())
        node.replaceInput(4, size)


def _find_escape(node: Node) -> str:
    """Return the operator by which the packed output of an LSTM leaves, or "": it must be unused or unpacked."""
    if not _is_packed(node):
        return ""
    users = (user.kind() for user in _find_users(next(iter(node.outputs()))))
    return next((kind for kind in users if kind not in (_UNPACK, _LSTM)), "")


def _is_packed(node: Node) -> bool:
    """Whether a node is an LSTM over a packed sequence: its second argument is then a tensor of batch sizes."""
    inputs = list(node.inputs())
    return node.kind() == _LSTM and len(inputs) > 1 and inputs[1].type().kind() == "TensorType"


def _find_users(value: Value) -> list[Node]:
    """Return the nodes that use a value, also out of the tuples that a PackedSequence is."""
    found: list[Any] = []
    for use in value.uses():
        user = use.user
        if user.kind() != "prim::TupleConstruct":
            found.append(user)
            continue
        for outer in user.output().uses():
            if outer.user.kind() == "prim::TupleUnpack":
                found += _find_users(list(outer.user.outputs())[use.offset])
            else:
                found.append(outer.user)
    return found
