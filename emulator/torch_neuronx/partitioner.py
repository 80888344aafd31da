"""``PartitionerConfig``: leaving operators that neuronx-cc does not take to the processor.

AWS docs: api-torch-neuronx-trace.rst, archive/appnotes/torch-neuronx/torch-neuronx-graph-partitioner-app-note.rst.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from neuron_emulator.graphs import is_arithmetic
from neuron_emulator.modules import NeuronSubgraph, trace_quietly
from neuron_emulator.partitioning import build_module, lower, plan_partition

from torch_neuronx.compiler import compile_whole, split_args
from torch_neuronx.operators import find_failure


@dataclass(frozen=True, kw_only=True)
class PartitionerConfig:
    """How a model may be split; beyond a limit ``trace`` raises ``ValueError``."""

    trace_kwargs: dict[str, Any] | None = None  # of each graph: compiler_workdir, compiler_args
    model_support_percentage_threshold: float = 0.5  # least share of operators that must be supported
    min_operator_percentage_threshold: float | None = None  # the same by its older name, as the application note has it
    min_subgraph_size: int = -1  # least operators of a graph; -1: any
    max_subgraph_count: int = -1  # most graphs; -1: any
    ops_to_partition: set[str] | None = None  # "aten::name" of operators to leave to the processor in any case
    analyze_parameters: dict[str, Any] | None = None  # of analyze: additional_ignored_ops


def trace_partitioned(
    func: Callable[..., Any], inputs: tuple[Any, ...], config: PartitionerConfig, words: list[str]
) -> torch.jit.ScriptModule:
    """Return ``func`` as TorchScript whose supported parts are compiled, on no core yet."""
    lowered = lower(trace_quietly(func, inputs))
    ignored = set((config.analyze_parameters or {}).get("additional_ignored_ops", ()))
    moved = set(config.ops_to_partition or ())

    def supported(node: Any) -> bool:
        return node.kind() in ignored or not find_failure(node)

    def on_chip(node: Any) -> bool:
        return node.kind() not in moved and supported(node)

    operators = [node for node in lowered.operators if is_arithmetic(node)]
    share = sum(map(supported, operators)) / max(1, len(operators))
    least = config.min_operator_percentage_threshold
    least = config.model_support_percentage_threshold if least is None else least
    if share < least:
        raise ValueError(
            f"{share:.2%} of the model's operators are supported, "
            f"model_support_percentage_threshold asks for {least:.2%}"
        )
    plan = plan_partition(lowered, on_chip, minimum_segment_size=1, single_fusion_ratio=1.0)
    _validate_limits(config, [sum(map(is_arithmetic, group)) for group in plan.groups.values()])
    options = config.trace_kwargs or {}
    words = words + split_args(options.get("compiler_args"))

    def compile_group(module: torch.nn.Module, example: tuple[torch.Tensor, ...], name: str) -> NeuronSubgraph:
        name = name.strip("_").replace("$", "_")
        return compile_whole(module, example, words=words, workdir=options.get("compiler_workdir"), name=name)

    return build_module(lowered, plan, inputs, compile_group)


def _validate_limits(config: PartitionerConfig, sizes: list[int]) -> None:
    if not sizes:
        raise ValueError("no operator of the model is left for Neuron")
    if config.min_subgraph_size > 0 and min(sizes) < config.min_subgraph_size:
        raise ValueError(f"a subgraph has {min(sizes)} operators, min_subgraph_size is {config.min_subgraph_size}")
    if 0 < config.max_subgraph_count < len(sizes):
        raise ValueError(f"the model has {len(sizes)} subgraphs, max_subgraph_count is {config.max_subgraph_count}")
