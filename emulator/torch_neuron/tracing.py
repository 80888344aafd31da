"""``torch_neuron.trace`` and ``analyze_model``."""

import enum
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from neuron_emulator.functions import as_module
from neuron_emulator.graphs import find_tensors, is_arithmetic
from neuron_emulator.modules import trace_quietly
from neuron_emulator.partitioning import Lowered, Plan, build_module, lower, plan_partition

from torch_neuron.compiler import Job, compile_segment
from torch_neuron.lstm import find_lstm_warnings, fix_unpacked_lengths
from torch_neuron.operators import is_supported

logger = logging.getLogger("Neuron")
_NOTHING = "No operations were successfully partitioned and compiled to neuron for this model - aborting trace!"


class Optimization(enum.Enum):
    """What may be asked for in ``optimizations``."""

    FLOAT32_TO_FLOAT16 = "FLOAT32_TO_FLOAT16"  # inputs and outputs cross to the device as float16


class Operator:
    """What a ``subgraph_builder_function`` is asked about: a module of the model."""

    def __init__(self, name: tuple[str, ...], type_string: str) -> None:
        self.name = name  # of the modules from the outermost in
        self.type_string = type_string  # the module's type


def trace(
    model: Callable[..., Any],
    example_inputs: Any,
    compiler_args: list[str] | None = None,
    compiler_timeout: float | None = None,
    compiler_workdir: str | Path | None = None,
    subgraph_builder_function: Callable[[Any], bool] | None = None,
    minimum_segment_size: int = 2,
    single_fusion_ratio_threshold: float = 0.6,
    fallback: bool = True,
    dynamic_batch_size: bool = False,
    optimizations: Sequence[Optimization] | None = None,
    separate_weights: bool = False,
    skip_compiler: bool = False,
    verbose: int | str | None = None,
    **kwargs: Any,
) -> torch.jit.ScriptModule:
    """Return ``model`` as TorchScript whose supported part is compiled for Inferentia 1, at the shapes of the example.

    ``example_inputs`` is a tensor or a tuple; other keywords go to ``torch.jit.trace``, such as ``strict=False`` for
    dictionaries. ``skip_compiler`` only plans: nothing is compiled, and the log says what would be. ``verbose`` changes
    nothing here. Works on a host without a device. Raises ``RuntimeError`` if nothing compiles, ``AttributeError`` for
    an unsupported operator with ``fallback=False``, ``subprocess.TimeoutExpired`` beyond ``compiler_timeout`` seconds
    for one graph.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    if compiler_args is not None and not isinstance(compiler_args, (list, tuple)):
        raise TypeError(f"compiler_args is {type(compiler_args).__name__}, expected a list of str")
    half = Optimization.FLOAT32_TO_FLOAT16 in list(optimizations or [])
    model = _Half(model) if half else model
    lowered = lower(_trace_eager(model, inputs, kwargs))
    fix_unpacked_lengths(lowered.graph)
    kept = _find_casts(lowered) if half else set()
    if subgraph_builder_function is not None:
        kept |= set(lowered.operators) - _ask_builder(model, lowered, subgraph_builder_function)
    plan = _plan(lowered, kept, minimum_segment_size, single_fusion_ratio_threshold, fallback)
    _log_plan(lowered, plan)
    job = Job(
        args=tuple(compiler_args or ()),
        timeout=compiler_timeout,
        workdir=None if compiler_workdir is None else Path(compiler_workdir),
        separate_weights=separate_weights,
        dynamic_batch=dynamic_batch_size,
    )
    failed: dict[str, int] = {}  # name of a graph that did not compile -> its number

    def compile_group(segment: torch.nn.Module, example: tuple[torch.Tensor, ...], name: str) -> Any:
        compiled = None if skip_compiler else compile_segment(segment, example, name, job)
        if compiled is None:
            failed[name] = int(name.rpartition("$")[2])
        return compiled

    options = {name: value for name, value in kwargs.items() if name in ("strict", "check_trace")}
    result = build_module(lowered, plan, inputs, compile_group, **options)
    _log_result(lowered, plan, set(failed.values()))
    if skip_compiler:
        return result
    if len(failed) == len(plan.groups):
        raise RuntimeError(_NOTHING)
    if failed and not fallback:
        raise RuntimeError(f"neuron-cc failed on {', '.join(failed)} and fallback=False")
    return result


def analyze_model(
    model: Callable[..., Any], example_inputs: Any, compiler_args: list[str] | None = None, **kwargs: Any
) -> None:
    """Log which operators of ``model`` the compiler supports; compiles nothing."""
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    lowered = lower(_trace_eager(model, inputs, kwargs))
    nodes = lowered.operators
    arithmetic = [node for node in nodes if is_arithmetic(node)]
    for what, found in (("operations (including primitives)", nodes), ("arithmetic operations", arithmetic)):
        good = sum(is_supported(node) for node in found)
        share = 100 * good / max(1, len(found))
        of = "all " if "primitives" in what else ""
        logger.info("%.2f%% of %s%s (%d of %d) are supported", share, of, what, good, len(found))
    _log_unsupported([node for node in arithmetic if not is_supported(node)])
    _log_counts("The following operations are currently supported:", [n for n in arithmetic if is_supported(n)])
    _log_counts("The following operations are currently not supported:", [n for n in arithmetic if not is_supported(n)])


class _Half(torch.nn.Module):
    """A model whose float32 inputs and outputs cross to the device as float16; takes either."""

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        self.model = as_module(model)

    def forward(self, *inputs: Any) -> Any:
        """Return the model's outputs, through float16."""
        return torch.utils._pytree.tree_map(_through_half, self.model(*map(_through_half, inputs)))


def _through_half(value: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.half().float() if is_float else value


def _find_casts(lowered: Lowered) -> set[Any]:
    """Return the casts of inputs to float16 and of outputs from it, which run on the processor (AWS docs)."""
    inputs = list(lowered.graph.inputs())
    given = set(inputs[: len(inputs) - len(lowered.weights)])
    last = {value.node() for value in find_tensors(lowered.graph.return_node())}
    casts = [node for node in lowered.operators if node.kind() == "aten::to"]
    return {node for node in casts if node in last or not given.isdisjoint(find_tensors(node))}


def _trace_eager(model: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]) -> torch.jit.ScriptModule:
    return trace_quietly(model, inputs, **{"strict": True, **options})  # torch.jit.trace's own default


def _plan(lowered: Lowered, kept: set[Any], minimum: int, ratio: float, fallback: bool) -> Plan:
    """Return the partition; the nodes in ``kept`` stay on the processor."""
    for text in find_lstm_warnings(lowered.operators):
        logger.warning(text)
    unsupported = [node for node in lowered.operators if not is_supported(node, fallback=fallback)]
    if unsupported and not fallback:
        names = ", ".join(sorted({node.kind() for node in unsupported}))
        raise AttributeError(f"{names} is not supported by neuron-cc, and fallback=False forbids the processor")
    plan = plan_partition(
        lowered,
        lambda node: node not in kept and is_supported(node, fallback=fallback),
        minimum_segment_size=minimum if fallback else 1,
        single_fusion_ratio=ratio if fallback else 1.0,
    )
    if not plan.groups:
        _log_plan(lowered, plan)
        raise RuntimeError(_NOTHING)
    return plan


def _ask_builder(model: Any, lowered: Lowered, builder: Callable[[Any], bool]) -> set[Any]:
    """Return the nodes that ``builder`` chooses; it is asked once for all nodes of one module."""
    modules = dict(model.named_modules()) if isinstance(model, torch.nn.Module) else {}
    answers: dict[str, bool] = {}
    chosen = set()
    for node in lowered.operators:
        path = node.scopeName().rpartition("/")[2].removeprefix("__module").strip(".")
        if path not in answers:
            parts = path.split(".") if path else []
            prefixes = [".".join(parts[:count]) for count in range(len(parts) + 1)]
            # AWS docs: node names are tuples of module names; the examples compare them with classes.
            names = tuple(type(modules[each]).__name__ for each in prefixes if each in modules)
            answers[path] = bool(builder(Operator(names, names[-1] if names else "")))
        if answers[path]:
            chosen.add(node)
    return chosen


def _log_unsupported(nodes: Sequence[Any]) -> None:
    names = sorted({node.kind() for node in nodes})
    logger.info(
        "There are %d ops of %d different types in the TorchScript that are not compiled by neuron-cc: %s",
        *(len(nodes), len(names), ", ".join(names)),
    )


def _log_plan(lowered: Lowered, plan: Plan) -> None:
    arithmetic = [node for node in lowered.operators if is_arithmetic(node)]
    left = [node for node in arithmetic if plan.levels[node] % 2]
    _log_unsupported(left)
    fused = len(arithmetic) - len(left)
    logger.info(
        "Number of arithmetic operators (pre-compilation) before = %d, fused = %d, percent fused = %.2f%%",
        *(len(arithmetic), fused, 100 * fused / max(1, len(arithmetic))),
    )


def _log_result(lowered: Lowered, plan: Plan, failed: set[int]) -> None:
    groups = sorted(plan.groups)
    compiled_levels = {level for number, level in enumerate(groups) if number not in failed}
    arithmetic = [node for node in lowered.operators if is_arithmetic(node)]
    compiled = [node for node in arithmetic if plan.levels[node] in compiled_levels]
    left = [node for node in arithmetic if plan.levels[node] not in compiled_levels]
    logger.info(
        "Number of arithmetic operators (post-compilation) before = %d, compiled = %d, percent compiled = %.2f%%",
        *(len(arithmetic), len(compiled), 100 * len(compiled) / max(1, len(arithmetic))),
    )
    logger.info("The neuron partitioner created %d sub-graphs", len(groups))
    logger.info(
        "Neuron successfully compiled %d sub-graphs, Total fused subgraphs = %d, "
        "Percent of model sub-graphs successfully compiled = %.2f%%",
        *(len(compiled_levels), len(groups), 100 * len(compiled_levels) / max(1, len(groups))),
    )
    _log_counts("Compiled these operators (and operator counts) to Neuron:", compiled)
    _log_counts("Not compiled operators (and operator counts) to Neuron:", left)


def _log_counts(title: str, nodes: Sequence[Any]) -> None:
    logger.info(title)
    known = {node.kind(): is_supported(node) for node in nodes}
    for kind, count in sorted(Counter(node.kind() for node in nodes).items()):
        logger.info(" => %s: %d [%s]", kind, count, "supported" if known[kind] else "not supported")
