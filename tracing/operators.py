"""Which operators a chip's compiler takes, before compiling, and which it left to the processor, after it."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from handlers import targets
from handlers.neuron import TupleModel, import_framework
from tracing.errors import CompileError

Node = Any  # torch._C's own; it has no type for it


def report_operators(target: str, model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[str]:
    """Return what the framework's own analysis says of the model's operators, a line each."""
    framework = import_framework(targets.get_target(target).PACKAGE)
    with _quiet():
        if target == "inf1":
            with _captured_log() as lines:
                framework.analyze_model(TupleModel(model), tuple(inputs))
            return [
                line for line in lines if "are supported" in line or ("not compiled" in line and " 0 ops" not in line)
            ]
        found = framework.analyze(TupleModel(model), tuple(inputs))
    lines = [f"{found['support_percentage']} of the operators are supported"]
    for each in found["unsupported_operators"]:
        lines.append(f"not supported: {each['kind']} ({each['failureAt']}) in {each['call']}")
    return lines


def measure_cpu_share(model: torch.nn.Module, inputs: Sequence[torch.Tensor], compiled: Any) -> tuple[float, list[str]]:
    """Return the share of arithmetic operators that a compiled module leaves to the processor, and which and where."""
    with _quiet(), torch.no_grad():
        eager = torch.jit.trace(TupleModel(model), tuple(inputs), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    operators = list(_walk(eager.inlined_graph))
    left = Counter(_name(node) for node in _walk(compiled.inlined_graph))
    named = []
    for kind, count in sorted(left.items()):
        # Saved modules hold no lines, for they would hold the paths of the build machine; the eager trace knows them.
        places = sorted({_place(node) for node in operators if _name(node) == kind}) or ["a line of the framework's"]
        named.append(f"{kind} at {', '.join(places[:4])}" + (f" ({count} times)" if count > 1 else ""))
    return min(1.0, sum(left.values()) / max(1, len(operators))), named


def judge_cpu_share(share: float, left: Sequence[str], limit: float, target: str) -> None:
    """Raise ``CompileError`` if more of the graph stays on the processor than the recipe allows."""
    if share <= limit:
        return
    shown = "; ".join(left[:8]) + (f"; and {len(left) - 8} more" if len(left) > 8 else "")
    raise CompileError(
        f"{target}: {share:.1%} of the model's arithmetic operators stay on the processor, at most {limit:.1%} may "
        f"(max_cpu_share): {shown}. Write them with operators that the compiler takes, move them out of the model "
        f"(keep_on_cpu, or the handler), or raise targets[{target!r}]['max_cpu_share']"
    )


def _walk(graph: Any) -> Iterator[Node]:
    """Every operator that makes a tensor, those in blocks included."""
    for node in graph.nodes():
        outputs = list(node.outputs())
        makes_tensor = outputs and outputs[0].type().kind() == "TensorType"
        if makes_tensor and node.kind().startswith("aten::") and node.kind() != "aten::__getitem__":
            yield node
        for block in node.blocks():
            yield from _walk(block)


def _name(node: Node) -> str:
    """Return the operator's name without what compilers change in it: spelling of special functions, in-place forms."""
    return "aten::" + str(node.kind()).removeprefix("aten::").removeprefix("special_").removesuffix("_")


def _place(node: Node) -> str:
    """Return file and line of the user's code that a node came from, as far as torch kept it."""
    lines = [line.strip() for line in node.sourceRange().splitlines() if "): " in line]
    own = [line for line in lines if "/torch/" not in line]
    return str((own or lines or ["an unknown line"])[0]).rpartition("/")[2]


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """Collect what the logger ``Neuron`` says: the analysis of torch-neuron is only logged."""
    lines: list[str] = []
    logger = logging.getLogger("Neuron")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
