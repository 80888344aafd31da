"""Where a model loses its accuracy: the error of each layer under the chip's arithmetic, its own and accumulated."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from tracing.arithmetic import computing_as_chip


@dataclass(frozen=True)
class LayerError:
    """A layer's largest error over the largest magnitude of its exact output; infinite where it overflows."""

    name: str  # dotted, of a submodule without submodules that ran; "" for a model that has none
    accumulated: float  # with the inputs that it has on the chip
    own: float  # with exact inputs


@dataclass(frozen=True)
class _Call:
    """One call of a layer. Any: a layer takes and returns what it likes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[torch.Tensor]


def measure_layers(
    model: torch.nn.Module,
    items: Sequence[tuple[torch.Tensor, ...]],
    arithmetic: Any,
    keep_on_cpu: Sequence[str] = (),
) -> list[LayerError]:
    """Return the errors of the model's innermost layers in the order in which they first ran, the worst of all items.

    ``items`` have no batch dimension. ``arithmetic`` is the emulator's ``Arithmetic``; submodules of ``keep_on_cpu``
    compute exactly. Needs memory for two copies of one item's activations.
    """
    worst: dict[str, LayerError] = {}
    for item in items:
        inputs = tuple(tensor.unsqueeze(0) for tensor in item)
        exact = _run_recorded(model, inputs, lambda tensor: tensor.detach().clone())
        with computing_as_chip(model, arithmetic, keep_on_cpu) as mode:
            chip = _run_recorded(model, inputs, lambda tensor: _clone_exactly(tensor, mode))
        for name in [each for each in exact if each in chip and not _has_inner(each, exact)]:
            accumulated = max(map(_compare, exact[name], chip[name]), default=0.0)
            own = _measure_own(model, name, exact[name], arithmetic, keep_on_cpu)
            before = worst.get(name, LayerError(name, 0.0, 0.0))
            worst[name] = LayerError(name, max(before.accumulated, accumulated), max(before.own, own))
    return list(worst.values())


def _has_inner(name: str, ran: dict[str, list[_Call]]) -> bool:
    return any(other != name and (not name or other.startswith(f"{name}.")) for other in ran)


def _run_recorded(
    model: torch.nn.Module, inputs: Sequence[torch.Tensor], copy: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, list[_Call]]:
    """Return what each submodule took and returned, by name, in the order in which they began."""
    calls: dict[str, list[_Call]] = {}
    with torch.no_grad(), _recording(model, calls, copy):
        model(*inputs)
    return calls


@contextmanager
def _recording(
    model: torch.nn.Module, calls: dict[str, list[_Call]], copy: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    handles = []
    waiting: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def hook(name: str, module: torch.nn.Module) -> None:
        def before(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            calls.setdefault(name, [])
            waiting.append(tree_map_only(torch.Tensor, copy, (args, kwargs)))  # a layer may write to its inputs

        def after(_: torch.nn.Module, __: Any, outputs: Any) -> None:
            args, kwargs = waiting.pop()
            found = [copy(each) for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]
            calls[name].append(_Call(args, kwargs, found))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))

    try:
        for name, module in model.named_modules():
            # What runs inside of TorchScript cannot be watched; its outermost module can.
            if not isinstance(module, torch.jit.ScriptModule) or name == "":
                hook(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clone_exactly(tensor: torch.Tensor, mode: Any) -> torch.Tensor:
    with mode.pause():
        return tensor.detach().clone()


def _measure_own(
    model: torch.nn.Module, name: str, calls: Sequence[_Call], arithmetic: Any, keep_on_cpu: Sequence[str]
) -> float:
    if any(name == kept or name.startswith(f"{kept}.") for kept in keep_on_cpu):
        return 0.0
    module, worst = model.get_submodule(name), 0.0
    for call in calls:
        args, kwargs = tree_map_only(torch.Tensor, torch.clone, (call.args, call.kwargs))
        with computing_as_chip(model, arithmetic, keep_on_cpu):
            outputs = module(*args, **kwargs)
        found = [each for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]
        worst = max(worst, _compare(call, _Call((), {}, found)))
    return worst


def _compare(exact: _Call, chip: _Call) -> float:
    return max(map(relative_error, exact.outputs, chip.outputs), default=0.0)


def relative_error(exact: torch.Tensor, found: torch.Tensor) -> float:
    """Return the largest error over the largest magnitude where the exact tensor is finite; inf if the other is not."""
    if exact.shape != found.shape:
        return math.inf
    if not exact.is_floating_point() or not exact.numel():
        return 0.0
    finite = exact.isfinite()
    one, other = exact[finite].double(), found[finite].double()
    if not one.numel():
        return 0.0
    if not bool(other.isfinite().all()):
        return math.inf
    error, scale = float((one - other).abs().max()), float(one.abs().max())
    return error / scale if scale else (math.inf if error else 0.0)
