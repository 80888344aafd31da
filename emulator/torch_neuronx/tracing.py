"""``torch_neuronx.trace``: a whole function or module as one compiled graph."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from neuron_emulator.graphs import is_arithmetic
from neuron_emulator.modules import Flat, NeuronSubgraph, Structured, place_subgraphs, trace_outside, trace_quietly
from neuron_emulator.partitioning import lower
from neuron_emulator.runtime import get_runtime

from torch_neuronx.compiler import compile_whole, find_target, split_args
from torch_neuronx.operators import find_error_code, find_failure
from torch_neuronx.partitioner import PartitionerConfig, trace_partitioned

_POSITIONAL = ("input_output_aliases", "compiler_workdir", "compiler_args", "partitioner_config")


def trace(
    func: Callable[..., Any],
    example_inputs: Any,
    *extra: Any,
    input_output_aliases: Mapping[torch.Tensor, int] | None = None,
    compiler_workdir: str | Path | None = None,
    compiler_args: str | list[str] | None = None,
    partitioner_config: PartitionerConfig | None = None,
    inline_weights_to_neff: bool = True,
    cpu_backend: bool = False,
    **kwargs: Any,
) -> torch.jit.ScriptModule:
    """Return ``func`` as TorchScript around one graph compiled for Inferentia 2, loaded on a core.

    ``example_inputs`` is a tensor or a tuple, which may be nested. ``input_output_aliases`` names parameters that are
    state (a key) and the output that replaces each (its value): state stays on the device and is not returned. With
    ``cpu_backend`` nothing is loaded, no device is needed, and ``--target`` must be in ``compiler_args``; without it a
    host without devices raises the runtime's ``RuntimeError``. Raises ``RuntimeError`` for operators and flags that
    neuronx-cc does not take.
    """
    if extra:
        warnings.warn(
            "torch_neuronx.trace takes keywords only after example_inputs; positional arguments are taken as "
            + ", ".join(_POSITIONAL[: len(extra)]),
            stacklevel=2,
        )
        given = dict(zip(_POSITIONAL, extra, strict=False))
        input_output_aliases = given.get("input_output_aliases", input_output_aliases)
        compiler_workdir = given.get("compiler_workdir", compiler_workdir)
        compiler_args = given.get("compiler_args", compiler_args)
        partitioner_config = given.get("partitioner_config", partitioner_config)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if isinstance(example_inputs, list):
        inputs = tuple(example_inputs)
    words = split_args(compiler_args)
    if cpu_backend and find_target(words) is None:
        raise ValueError("cpu_backend=True needs the chip: add --target inf2 (or trn1) to compiler_args")
    if not cpu_backend:
        get_runtime()  # the real framework takes its cores to trace with
    if partitioner_config is not None:
        traced = trace_partitioned(func, inputs, partitioner_config, words)
    else:
        traced = trace_graph(
            func,
            inputs,
            words=words,
            workdir=compiler_workdir,
            aliases=input_output_aliases or {},
            separate_weights=not inline_weights_to_neff,
            **kwargs,
        )
    if not cpu_backend:
        place_subgraphs(traced)
    return traced


def trace_graph(
    func: Callable[..., Any],
    inputs: tuple[Any, ...],
    *,
    words: list[str],
    workdir: str | Path | None = None,
    aliases: Mapping[torch.Tensor, int] | None = None,
    separate_weights: bool = False,
    **kwargs: Any,
) -> torch.jit.ScriptModule:
    """Return ``func`` as TorchScript around one compiled graph, on no core yet."""
    state = find_state(func, aliases or {})
    flat = Flat(WithState(func, list(state)) if state else func, (*inputs, *(tensor for tensor, _ in state.values())))
    validate_operators(flat)
    graph = compile_whole(flat, flat.example, words=words, separate_weights=separate_weights, workdir=workdir)
    outside: torch.nn.Module = Structured(graph, flat.out_spec)
    if state:
        outside = _Stateful(graph, flat.out_spec, state)
    traced = trace_outside(outside, inputs, **kwargs)
    for index, (tensor, _) in enumerate(state.values()):
        getattr(traced, f"state_{index}").copy_(tensor)  # tracing ran the function once
    return traced


def validate_operators(flat: Flat) -> None:
    """Raise ``RuntimeError`` for an operator that the compiler does not take."""
    nodes = [node for node in lower(trace_quietly(flat, flat.example)).operators if is_arithmetic(node)]
    refused = sorted(
        {f"{node.kind()} ({find_error_code(node) or find_failure(node)})" for node in nodes if find_failure(node)}
    )
    if refused:
        raise RuntimeError(
            f"neuronx-cc failed with 1: operators that are not supported: {', '.join(refused)}; torch_neuronx.analyze "
            "names their places, partitioner_config leaves them to the processor"
        )


def find_state(func: Any, aliases: Mapping[torch.Tensor, int]) -> dict[str, tuple[torch.Tensor, int]]:
    """Return the state by its name in the module: its first value, and the number of the output that replaces it."""
    if not aliases:
        return {}
    named = {}
    if isinstance(func, torch.nn.Module):
        named = {id(tensor): name for name, tensor in (*func.named_parameters(), *func.named_buffers())}
    unknown = [tensor for tensor in aliases if id(tensor) not in named]
    if unknown:
        raise ValueError(
            f"input_output_aliases: a tensor of shape {list(unknown[0].shape)} is no parameter or buffer of the module"
        )
    return {named[id(tensor)]: (tensor.detach().clone(), int(index)) for tensor, index in aliases.items()}


class WithState(torch.nn.Module):
    """A module whose state tensors are further inputs."""

    def __init__(self, module: Any, names: list[str]) -> None:  # Any: a module, since it has state
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *inputs: Any) -> Any:
        """Return the module's outputs with the last inputs as its state."""
        count = len(inputs) - len(self.names)
        # torch.func.functional_call refuses to be traced, hence by hand.
        before = [_exchange(self.module, name, tensor) for name, tensor in zip(self.names, inputs[count:], strict=True)]
        try:
            return self.module(*inputs[:count])
        finally:
            for name, tensor in zip(self.names, before, strict=True):
                _exchange(self.module, name, tensor)


def _exchange(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Put ``tensor`` in the place of a parameter or buffer and return what was there."""
    parent, _, last = name.rpartition(".")
    owner = module.get_submodule(parent)
    kept: dict[str, Any] = owner._parameters if last in owner._parameters else owner._buffers
    before: torch.Tensor = kept[last]
    kept[last] = tensor
    return before


class _Stateful(torch.nn.Module):
    """A compiled graph and the tensors that it keeps from call to call."""

    def __init__(self, graph: NeuronSubgraph, out_spec: Any, state: dict[str, tuple[torch.Tensor, int]]) -> None:
        super().__init__()
        self.graph = graph
        self.aliased = [index for _, index in state.values()]
        for number, (tensor, _) in enumerate(state.values()):
            self.register_buffer(f"state_{number}", tensor.clone())
        self.out_spec = out_spec

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs that are not state; a lone one as it is."""
        state = [getattr(self, f"state_{number}") for number in range(len(self.aliased))]
        outputs = self.graph(*torch.utils._pytree.tree_leaves(inputs), *state)
        for kept, index in zip(state, self.aliased, strict=True):
            kept.copy_(outputs[index])
        left = tuple(each for index, each in enumerate(outputs) if index not in self.aliased)
        return left[0] if len(left) == 1 else left
