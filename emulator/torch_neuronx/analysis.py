"""``torch_neuronx.analyze``: which operators of a model neuronx-cc takes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from neuron_emulator.graphs import is_arithmetic
from neuron_emulator.modules import trace_quietly
from neuron_emulator.partitioning import lower

from torch_neuronx.compiler import COMPILER_VERSION, VERSION
from torch_neuronx.operators import find_failure


def analyze(
    func: Callable[..., Any],
    example_inputs: Any,
    compiler_workdir: str | None = None,
    additional_ignored_ops: set[str] | None = None,
    max_workers: int = 4,
    is_hf_transformers: bool = False,
    cleanup: bool = False,
    **kwargs: Any,
) -> dict[str, Any]:
    """Return what is supported of a model and what is not, as the JSON that AWS documents; compiles nothing.

    ``additional_ignored_ops`` are left out. The other keywords are for how the real analysis works: no use here.
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    ignored = additional_ignored_ops or set()
    nodes = [node for node in lower(trace_quietly(func, inputs)).operators if is_arithmetic(node)]
    nodes = [node for node in nodes if node.kind() not in ignored]
    failures = {node: find_failure(node) for node in nodes}
    supported = [node for node in nodes if not failures[node]]
    share = 100 * len(supported) / len(nodes) if nodes else 100.0
    return {
        "torch_neuronx_version": VERSION,
        "neuronx_cc_version": COMPILER_VERSION,
        "support_percentage": f"{share:.2f}%",
        "supported_operators": dict(Counter(node.kind() for node in supported)),
        "unsupported_operators": [
            {"kind": node.kind(), "failureAt": failures[node], "call": node.sourceRange(), "opGraph": str(node)}
            for node in nodes
            if failures[node]
        ],
    }
