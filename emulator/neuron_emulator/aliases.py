"""Which operators of a TorchScript graph share memory that one of them writes to.

``y[:, 0] = x`` is three nodes: a view of ``y``, ``aten::copy_`` into it, and whatever reads ``y`` later, which does not
take the copy's output. Only their order ties them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuron_emulator.graphs import Node, find_tensors


@dataclass(frozen=True)
class WrittenMemory:
    """The operators that meet memory which some operator writes to."""

    users: tuple[Node, ...]  # in the graph's order, which they have to keep
    holders: frozenset[Node]  # of these, those that write, or whose output is a part of what they take


def find_written_memory(graph: Any, nodes: Sequence[Node]) -> WrittenMemory:
    """Return the users of written memory among ``nodes``; ``graph`` is torch's (torch._C.Graph, hence Any)."""
    memory = graph.alias_db()
    users = [node for node in nodes if any(memory.has_writers(each) for each in (*node.outputs(), *find_tensors(node)))]
    holders = (
        node
        for node in users
        if any(memory.may_contain_alias(taken, made) for taken in find_tensors(node) for made in node.outputs())
    )
    return WrittenMemory(tuple(users), frozenset(holders))
