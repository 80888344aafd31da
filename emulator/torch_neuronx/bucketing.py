"""``bucket_model_trace``: several input shapes in one module, chosen by a TorchScript function of the user's.

AWS docs: programming-guide/inference/autobucketing-dev-guide.rst. Models with aliases share one buffer of state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from neuron_emulator.modules import Flat, NeuronSubgraph, place_subgraphs
from neuron_emulator.runtime import get_runtime

from torch_neuronx.bucket_script import BucketPlan, make_bucket_module
from torch_neuronx.compiler import compile_whole, split_args
from torch_neuronx.tracing import WithState, find_state, validate_operators


class BucketModelConfig:
    """How inputs find their bucket, and the state that buckets share."""

    def __init__(
        self,
        bucket_kernel: Callable[..., Any],
        *_: Any,
        shared_state_buffer: list[torch.Tensor] | None = None,
        shared_state_buffer_preprocessor: Callable[..., Any] | None = None,
        func_kwargs: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        self.bucket_kernel = bucket_kernel
        self.shared_state_buffer = shared_state_buffer
        self.shared_state_buffer_preprocessor = shared_state_buffer_preprocessor
        self.func_kwargs = func_kwargs


def bucket_model_trace(
    func: Callable[..., Any],
    example_inputs: Sequence[Any],
    bucket_config: BucketModelConfig,
    compiler_workdir: str | None = None,
    compiler_args: str | list[str] | None = None,
) -> torch.jit.ScriptModule:
    """Return one TorchScript module for all of ``example_inputs``, loaded on a core.

    ``func`` returns a model and its aliases, once for each bucket. Raises ``ValueError`` where ``func_kwargs`` is a
    list of another length, and what compiling raises.
    """
    get_runtime()
    words = split_args(compiler_args)
    kwargs = bucket_config.func_kwargs or {}
    if isinstance(kwargs, list) and len(kwargs) != len(example_inputs):
        raise ValueError(f"func_kwargs has {len(kwargs)} entries for {len(example_inputs)} buckets")
    buckets = []
    for number, example in enumerate(example_inputs):
        model, aliases = func(**(kwargs[number] if isinstance(kwargs, list) else kwargs))
        workdir = None if compiler_workdir is None else f"{compiler_workdir}/bucket_{number}"
        buckets.append(_compile_bucket(model, aliases, example, words, workdir))
    first = buckets[0]
    plan = BucketPlan(
        kernel=bucket_config.bucket_kernel(),
        preprocess=_call(bucket_config.shared_state_buffer_preprocessor),
        shapes=[[list(tensor.shape) for tensor, _ in bucket.state.values()] for bucket in buckets],
        aliased=[index for _, index in first.state.values()],
        # The last bucket's state is the largest.
        buffers=bucket_config.shared_state_buffer or [tensor for tensor, _ in buckets[-1].state.values()],
        count=first.graph.count,
        lone=first.lone or bool(first.state),
    )
    traced = make_bucket_module([each.graph for each in buckets], [each.example for each in buckets], plan)
    place_subgraphs(traced)
    return traced


@dataclass(frozen=True)
class _Bucket:
    graph: NeuronSubgraph
    example: tuple[torch.Tensor, ...]  # flat, state included
    state: dict[str, tuple[torch.Tensor, int]]
    lone: bool  # whether the model returns one tensor


def _compile_bucket(model: Any, aliases: Any, example: Any, words: list[str], workdir: str | None) -> _Bucket:
    inputs = example if isinstance(example, tuple) else (example,)
    model = model.eval() if isinstance(model, torch.nn.Module) else model
    state = find_state(model, aliases)
    function = WithState(model, list(state)) if state else model
    flat = Flat(function, (*inputs, *(tensor for tensor, _ in state.values())))
    validate_operators(flat)
    graph = compile_whole(flat, flat.example, words=words, workdir=workdir)
    return _Bucket(graph, flat.example, state, flat.out_spec.is_leaf())


def _call(function: Callable[..., Any] | None) -> Any:
    return function() if function is not None else None
