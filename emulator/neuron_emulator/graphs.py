"""Nodes of TorchScript graphs: what each takes and makes, and copying some of them into a graph of their own."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch

# torch._C's own; it has no types for them.
Node: TypeAlias = Any
Value: TypeAlias = Any
_functions: list[Any] = []  # that make_function made
_GLUE = frozenset({"prim::NumToTensor"})  # a tensor that only holds a size


def is_arithmetic(node: Node) -> bool:
    """Whether a node is an operator, rather than a primitive of TorchScript."""
    return bool(node.kind().startswith("aten::")) and makes_tensors(node)


def source_line(node: Node) -> str:
    """Return "file(line): function" of the user's code that a node came from, or ""."""
    lines = [line for line in node.sourceRange().splitlines() if "): " in line]
    own = [line for line in lines if "/torch/" not in line]
    return str((own or lines or [""])[0]).strip()


def makes_tensors(node: Node) -> bool:
    outputs = list(node.outputs())
    return (
        bool(outputs)
        and node.kind() not in ("prim::Constant", "prim::Param", *_GLUE)
        and all(value.type().kind() == "TensorType" for value in outputs)
    )


def find_tensors(node: Node) -> list[Value]:
    """Return the tensors that a node takes, also those inside lists and sizes, and in its blocks."""
    found: list[Value] = []
    waiting = _find_operands(node)
    while waiting:
        value = waiting.pop()
        if is_glue(value):
            waiting += _find_operands(value.node())
        elif value not in found:
            found.append(value)
    return found


def is_glue(value: Value) -> bool:
    return value.node().kind() != "prim::Param" and not makes_tensors(value.node())


def make_function(graph: Any) -> Any:
    """Return a graph (torch._C.Graph) as a function of its inputs, which lives as long as the process.

    Once inlined, its nodes point to it, and torch reads its name for the traceback of an error: if it were gone, the
    process would crash.
    """
    function = torch._C._create_function_from_graph("forward", graph)
    _functions.append(function)
    return function


class Copier:
    """Copies nodes into a new graph; what makes no tensor comes along on demand."""

    def __init__(self) -> None:
        self.graph: Any = torch._C.Graph()
        self.known: dict[Value, Value] = {}

    def add_input(self, value: Value) -> None:
        self.known[value] = self.graph.addInput()
        self.known[value].setType(value.type())

    def copy_node(self, node: Node) -> None:
        for value in _find_operands(node):
            self.find(value)
        copied = self.graph.insertNode(self.graph.createClone(node, self.find))
        for value, new in zip(node.outputs(), copied.outputs(), strict=True):
            self.known[value] = new

    def find(self, value: Value) -> Value:
        if value not in self.known:
            if not is_glue(value):
                raise RuntimeError(f"the graph uses {value.debugName()} before it is made")
            self.copy_node(value.node())
        return self.known[value]

    def make_function(self, outputs: Sequence[Value]) -> Any:
        for value in outputs:
            self.graph.registerOutput(self.find(value))
        if len(outputs) > 1:
            self.graph.makeMultiOutputIntoTuple()
        torch._C._jit_pass_dce(self.graph)
        return make_function(self.graph)


def _find_operands(node: Node) -> list[Value]:
    """Return what a node takes from outside of itself: its inputs, and what its blocks use and do not make."""
    inside = list(_walk_blocks(node))
    made = {value for each in inside for value in each.outputs()}
    made |= {value for each in (node, *inside) for block in each.blocks() for value in block.inputs()}
    used = [value for each in inside for value in each.inputs()]
    used += [value for each in (node, *inside) for block in each.blocks() for value in block.outputs()]
    return [*node.inputs(), *(value for value in used if value not in made)]


def _walk_blocks(node: Node) -> Iterator[Node]:
    for block in node.blocks():
        for inner in block.nodes():
            yield inner
            yield from _walk_blocks(inner)
