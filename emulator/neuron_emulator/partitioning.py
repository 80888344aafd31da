"""How a traced graph is split between NeuronCores and the processor, and put together again.

Operators are given levels so that every edge leads to the same level or a higher one: even levels run on NeuronCores,
odd ones on the processor. All Neuron operators of one level form one compiled graph, which can never wait for itself.
Nodes that make no tensor (constants, lists, sizes) have no level; they are copied to wherever they are used.
Operators that share memory which one of them writes to keep their order, and are not parted by a compiled graph.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuron_emulator.aliases import WrittenMemory, find_written_memory
from neuron_emulator.graphs import Copier, Node, Value, find_tensors, is_arithmetic, makes_tensors
from neuron_emulator.modules import NeuronSubgraph, trace_outside

CompileGroup = Callable[[torch.nn.Module, tuple[torch.Tensor, ...], str], NeuronSubgraph | None]


@dataclass(frozen=True)
class Lowered:
    """A traced model as one flat graph whose weights are inputs."""

    graph: Any
    weights: dict[str, torch.Tensor]  # by the name of the graph's input

    @property
    def operators(self) -> list[Node]:
        """The nodes that make tensors."""
        return [node for node in self.graph.nodes() if makes_tensors(node)]


@dataclass(frozen=True)
class Plan:
    """Which nodes run where."""

    levels: dict[Node, int]  # of each operator; even: NeuronCore

    @property
    def groups(self) -> dict[int, list[Node]]:
        """The nodes of each compiled graph, in their order."""
        found: dict[int, list[Node]] = {}
        for node, level in self.levels.items():
            if level % 2 == 0:
                found.setdefault(level, []).append(node)
        return found


def lower(module: torch.jit.ScriptModule) -> Lowered:
    """Return a module's graph, flat, in-place operators made ordinary ones, and its weights."""
    lowered: Any = torch._C._jit_pass_lower_graph(module.graph.copy(), module._c)
    graph, values = lowered
    torch._C._jit_pass_inline(graph)
    _open_tuples(graph)
    torch._C._jit_pass_remove_mutation(graph)
    torch._C._jit_pass_dce(graph)
    names = {tensor.data_ptr(): name for name, tensor in _state(module)}
    inputs = list(graph.inputs())
    weights: dict[str, torch.Tensor] = {}
    for value, tensor in zip(inputs[len(inputs) - len(values) :], values, strict=True):
        name = names.get(tensor.data_ptr(), value.debugName())
        while name in weights:
            name += "_again"
        weights[name] = tensor
    return Lowered(graph, weights)


def _open_tuples(graph: Any) -> None:
    """Use what modules hand each other in tuples as it is: torch takes a tensor in a tuple to share all memory."""
    for node in list(graph.nodes()):
        if node.kind() == "prim::TupleUnpack" and node.input().node().kind() == "prim::TupleConstruct":
            for made, taken in zip(node.outputs(), node.input().node().inputs(), strict=True):
                made.replaceAllUsesWith(taken)
    torch._C._jit_pass_dce(graph)


def plan_partition(
    lowered: Lowered, on_chip: Callable[[Node], bool], *, minimum_segment_size: int, single_fusion_ratio: float
) -> Plan:
    """Return which operators run on NeuronCores: those of ``on_chip``, but for segments that are too small.

    If one segment holds more than ``single_fusion_ratio`` of them, it is the only one.
    """
    nodes = lowered.operators
    chosen = {node for node in nodes if on_chip(node)}
    written = find_written_memory(lowered.graph, nodes)
    while True:
        plan = Plan(_assign_levels(nodes, chosen, written))
        if _is_parted(written, plan) and written.holders & chosen:
            chosen -= written.holders
            continue
        sizes = {level: sum(is_arithmetic(node) for node in group) for level, group in plan.groups.items()}
        total = sum(sizes.values())
        dropped = [level for level, size in sizes.items() if size < minimum_segment_size]
        largest = max(sizes, key=lambda level: sizes[level], default=0)
        if len(sizes) > 1 and sizes[largest] > single_fusion_ratio * total:
            dropped = [level for level in sizes if level != largest]
        if not dropped:
            return plan
        chosen -= {node for level in dropped for node in plan.groups[level]}


def build_module(
    lowered: Lowered, plan: Plan, example_inputs: tuple[Any, ...], compile_group: CompileGroup, **options: Any
) -> torch.jit.ScriptModule:
    """Return the model with each group replaced by a compiled graph; a group that does not compile stays as it was."""
    weights = dict(zip(_weight_values(lowered), lowered.weights.items(), strict=True))
    values = _run_values(lowered, plan, example_inputs)
    subgraphs: dict[int, tuple[NeuronSubgraph, list[Value], list[Value]]] = {}
    for number, (level, group) in enumerate(sorted(plan.groups.items())):
        inputs, outputs = _find_edges(lowered, plan, group, set(weights))
        module = _make_segment(group, inputs, outputs, weights)
        example = tuple(values[value.debugName()] for value in inputs)
        compiled = compile_group(module, example, f"_NeuronGraph${number}")
        if compiled is not None:
            subgraphs[level] = (compiled, inputs, outputs)
    return _assemble(lowered, plan, subgraphs, weights, example_inputs, options)


def _state(module: torch.nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _weight_values(lowered: Lowered) -> list[Value]:
    inputs = list(lowered.graph.inputs())
    return inputs[len(inputs) - len(lowered.weights) :]


def _assign_levels(nodes: Sequence[Node], chosen: set[Node], written: WrittenMemory) -> dict[Node, int]:
    before = dict(zip(written.users[1:], written.users, strict=False))  # of each user, the one that comes first
    levels: dict[Node, int] = {}
    for node in nodes:
        on_chip = node in chosen
        level = 0 if on_chip else -1
        earlier = [value.node() for value in find_tensors(node)]
        for each in (*earlier, before.get(node)):
            found = levels.get(each)
            if found is not None:
                level = max(level, found if (found % 2 == 0) == on_chip else found + 1)
        levels[node] = level
    return levels


def _is_parted(written: WrittenMemory, plan: Plan) -> bool:
    """Whether what shares written memory is not in one compiled graph as a whole: outputs of a graph share nothing."""
    return len({plan.levels[node] for node in written.users}) > 1


def _find_edges(
    lowered: Lowered, plan: Plan, group: Sequence[Node], weights: set[Value]
) -> tuple[list[Value], list[Value]]:
    """Return the tensors that a group takes from outside, weights apart, and those of its own used outside."""
    members = set(group)
    inputs: list[Value] = []
    for node in group:
        for value in find_tensors(node):
            if value.node() not in members and value not in inputs and value not in weights:
                inputs.append(value)
    wanted: set[Value] = set()
    for node in plan.levels:
        if node not in members:
            wanted |= set(find_tensors(node))
    wanted |= set(find_tensors(lowered.graph.return_node()))
    outputs = [value for node in group for value in node.outputs() if value in wanted]
    order = {value.debugName(): index for index, value in enumerate(lowered.graph.inputs())}
    inputs.sort(key=lambda value: order.get(value.debugName(), len(order)))
    return inputs, outputs


class _Segment(torch.nn.Module):
    """A function of tensors with tensors of its own behind them."""

    def __init__(self, function: Any, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.names = [name.replace(".", "__") for name in tensors]
        for name, tensor in zip(self.names, tensors.values(), strict=True):
            self.register_buffer(name, tensor.detach())

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the function's outputs as a tuple."""
        outputs = self.function(*inputs, *(getattr(self, name) for name in self.names))
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def _make_segment(
    group: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: dict[Value, tuple[str, torch.Tensor]],
) -> torch.nn.Module:
    used = [value for value in weights if any(value in find_tensors(node) for node in group)]
    copier = Copier()
    for value in (*inputs, *used):
        copier.add_input(value)
    for node in group:
        copier.copy_node(node)
    return _Segment(copier.make_function(outputs), dict(weights[value] for value in used))


def _run_values(lowered: Lowered, plan: Plan, example_inputs: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    """Return every tensor that crosses into a group, from one run of the model: examples to compile the group with."""
    weights = set(_weight_values(lowered))
    wanted = [value for group in plan.groups.values() for value in _find_edges(lowered, plan, group, weights)[0]]
    given = [value for value in wanted if value.node().kind() == "prim::Param"]
    made = [value for value in dict.fromkeys(wanted) if value.node().kind() != "prim::Param"]
    leaves = dict(zip((value.debugName() for value in lowered.graph.inputs()), example_inputs, strict=False))
    found = {value.debugName(): leaves[value.debugName()] for value in given}
    if made:
        copier = Copier()
        for value in lowered.graph.inputs():
            copier.add_input(value)
        for node in lowered.operators:
            copier.copy_node(node)
        with torch.no_grad():
            outputs = copier.make_function(made)(*example_inputs, *lowered.weights.values())
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        found.update({value.debugName(): tensor for value, tensor in zip(made, outputs, strict=True)})
    return found


def _assemble(
    lowered: Lowered,
    plan: Plan,
    subgraphs: dict[int, tuple[NeuronSubgraph, list[Value], list[Value]]],
    weights: dict[Value, tuple[str, torch.Tensor]],
    example_inputs: tuple[Any, ...],
    options: dict[str, Any],
) -> torch.jit.ScriptModule:
    copier = Copier()
    inputs = [value for value in lowered.graph.inputs() if value not in weights]
    for value in inputs:
        copier.add_input(value)
    left = [node for node, level in plan.levels.items() if level not in subgraphs]
    kept = {value for node in left for value in find_tensors(node)} | set(find_tensors(lowered.graph.return_node()))
    tensors = {name: tensor for value, (name, tensor) in weights.items() if value in kept}
    for value in weights:
        if value in kept:
            copier.add_input(value)
    arguments = {level: _add_arguments(copier.graph, subgraph) for level, (subgraph, _, _) in subgraphs.items()}
    order = {node: index for index, node in enumerate(plan.levels)}
    for level in sorted(set(plan.levels.values())):
        if level in subgraphs:
            _add_call(copier, *subgraphs[level], *arguments[level])
        else:
            for node in sorted((node for node in plan.levels if plan.levels[node] == level), key=order.__getitem__):
                copier.copy_node(node)
    function = copier.make_function(list(lowered.graph.return_node().inputs()))
    outer = _Outer(function, tensors, [subgraph for subgraph, _, _ in subgraphs.values()])
    return trace_outside(outer, example_inputs, **options)


class _Outer(torch.nn.Module):
    """What stays on the processor, and the compiled graphs."""

    def __init__(self, function: Any, tensors: dict[str, torch.Tensor], subgraphs: Sequence[NeuronSubgraph]) -> None:
        super().__init__()
        self.left = _Segment(function, tensors)
        self.graphs = torch.nn.ModuleList(subgraphs)

    def forward(self, *inputs: Any) -> Any:
        """Return what the model returns."""
        tensors = [getattr(self.left, name) for name in self.left.names]
        for graph in self.graphs:
            tensors += graph.buffers()
        return self.left.function(*inputs, *tensors)


def _add_arguments(graph: Any, subgraph: NeuronSubgraph) -> tuple[list[Value]]:
    added = []
    for _ in subgraph.buffers():
        added.append(graph.addInput())
        added[-1].setType(torch._C.TensorType.get())
    return (added,)


def _add_call(
    copier: Copier,
    subgraph: NeuronSubgraph,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    buffers: Sequence[Value],
) -> None:
    graph, kind = copier.graph, torch._C.ListType(torch._C.TensorType.get())
    lists = []
    for values in ([copier.find(value) for value in inputs], list(buffers[2:])):
        made = graph.insertNode(graph.create("prim::ListConstruct", values, 1))
        made.output().setType(kind)
        lists.append(made.output())
    name = f"neuron::forward_v2_{subgraph.count}"
    call = graph.insertNode(graph.create(name, [lists[0], buffers[0], buffers[1], lists[1]], subgraph.count))
    for value, new in zip(outputs, call.outputs(), strict=True):
        copier.known[value] = new
