"""The TorchScript around the graphs of a bucket model: kernel, choice, and shared state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from neuron_emulator.modules import trace_outside


@dataclass(frozen=True)
class BucketPlan:
    """What the script is made of. Any: TorchScript functions of the user's."""

    kernel: Any  # list of tensors -> (list of padded tensors, tensor with the bucket's number)
    preprocess: Any | None  # (shapes of the state by bucket, state, the bucket's number) -> state of the bucket
    shapes: list[list[list[int]]]  # of each state tensor in each bucket
    aliased: list[int]  # the outputs that replace the state
    buffers: list[torch.Tensor]  # first values of the state
    count: int  # outputs of a graph
    lone: bool  # whether a model returns one tensor, not a tuple of one


class _Holder(torch.nn.Module):
    """Holds what the generated ``forward`` names."""

    def __init__(self, graphs: Sequence[torch.nn.Module], plan: BucketPlan) -> None:
        super().__init__()
        for number, graph in enumerate(graphs):
            setattr(self, f"graph_{number}", graph)
        for number, tensor in enumerate(plan.buffers):
            self.register_buffer(f"state_{number}", tensor.detach().clone())
        self.kernel = plan.kernel
        if plan.preprocess is not None:
            self.preprocess = plan.preprocess


def make_bucket_module(
    graphs: Sequence[torch.nn.Module], examples: Sequence[tuple[torch.Tensor, ...]], plan: BucketPlan
) -> torch.jit.ScriptModule:
    """Return one module of all graphs; ``examples`` are the flat inputs of each, state included."""
    traced = [trace_outside(graph, example) for graph, example in zip(graphs, examples, strict=True)]
    module = torch.jit.script(_Holder(traced, plan))
    module.define(_write_forward(len(graphs), len(examples[0]) - len(plan.buffers), plan))
    return module


def _write_forward(buckets: int, inputs: int, plan: BucketPlan) -> str:
    names = [f"x{number}" for number in range(inputs)]
    lines = [
        f"def forward(self, {', '.join(f'{name}: Tensor' for name in names)}):",
        f"    padded, bucket = self.kernel([{', '.join(names)}])",
        "    number = int(bucket)",
    ]
    states = [f"self.state_{number}" for number in range(len(plan.buffers))]
    if states and plan.preprocess is not None:
        lines += [f"    shapes: List[List[List[int]]] = {plan.shapes}"]
        lines += [f"    state = self.preprocess(shapes, [{', '.join(states)}], bucket)"]
    elif states:
        lines += [f"    state = [{', '.join(states)}]"]
    arguments = [f"padded[{number}]" for number in range(inputs)] + [f"state[{n}]" for n in range(len(states))]
    for number in range(buckets):
        keyword = "if" if number == 0 else "elif"
        lines += [f"    {keyword} number == {number}:", f"        out = self.graph_{number}({', '.join(arguments)})"]
    lines += [
        "    else:",
        f"        raise RuntimeError('the bucket kernel chose a bucket beyond the {buckets} there are')",
    ]
    lines += [f"    state[{position}].copy_(out[{index}])" for position, index in enumerate(plan.aliased)]
    kept = [f"out[{index}]" for index in range(plan.count) if index not in plan.aliased]
    lines.append(f"    return {kept[0] if plan.lone and len(kept) == 1 else '(' + ', '.join(kept) + ',)'}")
    return "\n".join(lines) + "\n"
