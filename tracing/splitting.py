"""A model in two: a body for a chip's compiler, and the sensitive end that stays on the processor in full precision."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from handlers.handler import as_tuple
from tracing.errors import PreflightError


class End(torch.nn.Module):
    """The last submodules of a model, one after the other; takes what the body returns."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(modules)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Return what the model returns. Any: a tensor, or several."""
        outputs: Any = tensors
        for step in self.steps:
            outputs = step(*outputs) if isinstance(outputs, tuple) else step(outputs)
        return outputs


class _Passing(torch.nn.Module):
    """Stands where a submodule of the end was; returns what it is given."""

    def forward(self, *tensors: torch.Tensor) -> Any:
        return tensors[0] if len(tensors) == 1 else tensors


@dataclass
class _Trail:
    """What ran, in the order of its beginning, and what went in and out of it. Any: tensors, or nests of them."""

    order: list[str] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    keywords: set[str] = field(default_factory=set)  # submodules that were called with keyword arguments


def split_end(
    model: torch.nn.Module, names: Sequence[str], example: Sequence[torch.Tensor]
) -> tuple[torch.nn.Module, End]:
    """Return ``(body, end)``, modules such that ``end(*body(*inputs))`` is ``model(*inputs)``; weights are shared.

    ``names`` are dotted names of submodules that follow one another and whose last one's output is the model's output,
    in any order. ``example`` are inputs with a batch dimension. Raises ``PreflightError`` that says what comes after.
    """
    known = dict(model.named_modules())
    missing = [name for name in names if name not in known or not name]
    if missing:
        raise _fault(
            f"the model has no submodule {missing[0]!r}, expected one of {', '.join(sorted(known)[1:21]) or 'none'}; "
            "a function such as softmax(x) in forward must become a submodule such as torch.nn.Softmax to be kept"
        )
    nested = [(a, b) for a in names for b in names if b.startswith(f"{a}.")]
    if nested:
        raise _fault(f"{nested[0][1]} is part of {nested[0][0]}, which is kept as a whole; name one of them")
    trail, returned = _follow(model, example)
    chain = _order_chain(names, trail)
    _check_chain(chain, trail, returned)
    end = End([known[name] for name in chain])
    body = _cut(model, chain)
    _check_equal(model, body, end, example)
    return body, end.eval()


def _follow(model: torch.nn.Module, example: Sequence[torch.Tensor]) -> tuple[_Trail, Any]:
    trail, handles = _Trail(), []
    for name, module in list(model.named_modules())[1:]:

        def before(_: torch.nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            trail.order.append(name)
            trail.inputs[name] = args
            if kwargs:
                trail.keywords.add(name)

        def after(_: torch.nn.Module, __: Any, outputs: Any, name: str = name) -> None:
            trail.outputs[name] = outputs

        if not isinstance(module, torch.jit.ScriptModule):
            handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            return trail, model(*example)
    finally:
        for handle in handles:
            handle.remove()


def _order_chain(names: Sequence[str], trail: _Trail) -> list[str]:
    for name in names:
        calls = trail.order.count(name)
        if calls != 1:
            raise _fault(f"{name} ran {calls} times in one forward, expected once; it cannot be taken off the end")
        if name in trail.keywords:
            raise _fault(f"{name} is called with keyword arguments; pass tensors by position, so that it can be kept")
    return sorted(names, key=trail.order.index)


def _check_chain(chain: Sequence[str], trail: _Trail, returned: Any) -> None:
    for name, following in pairwise(chain):
        if not _same(trail.outputs[name], trail.inputs[following]):
            between = _find_between(name, following, trail)
            raise _fault(f"{following} does not take exactly what {name} returns{between}; name all that is in between")
    last = chain[-1]
    try:
        outputs: Any = as_tuple(returned)
    except TypeError:
        outputs = (returned,)
    if not _same(trail.outputs[last], outputs):
        later = [name for name in trail.order[trail.order.index(last) + 1 :] if not name.startswith(f"{last}.")]
        what = (
            f"{', '.join(later[:5])} follow it" if later else "operators in forward follow it, or other outputs exist"
        )
        raise _fault(
            f"{last} is not the model's last submodule, its output is not what forward returns: {what}; "
            "name the last submodules, and let forward return the last one's output"
        )


def _find_between(name: str, following: str, trail: _Trail) -> str:
    start, stop = trail.order.index(name) + 1, trail.order.index(following)
    found = [each for each in trail.order[start:stop] if not each.startswith(f"{name}.")]
    return f" ({', '.join(found[:5])} is in between)" if found else " (operators of forward are in between)"


def _same(one: Any, other: Any) -> bool:
    """Whether two nests hold the very same tensors: an operator between them would have made new ones."""
    first, second = tree_leaves(one), tree_leaves(other)
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _cut(model: torch.nn.Module, chain: Sequence[str]) -> torch.nn.Module:
    """Return a copy of the model that shares its weights and ends before ``chain``."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    body = copy.deepcopy(model, shared)
    for name in chain:
        parent, _, last = name.rpartition(".")
        setattr(body.get_submodule(parent), last, _Passing())
    return body.eval()


def _check_equal(model: torch.nn.Module, body: torch.nn.Module, end: End, example: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        expected = as_tuple(model(*example))
        try:
            found = as_tuple(end(*as_tuple(body(*example))))
        except (RuntimeError, TypeError, ValueError, AttributeError) as exc:
            raise _fault(f"the model does not run without its end: {type(exc).__name__}: {exc}") from exc
    if len(expected) != len(found) or not all(map(torch.equal, expected, found)):
        raise _fault("the model in two parts does not give its own outputs; forward does something else with its end")


def _fault(text: str) -> PreflightError:
    return PreflightError(f"keep_on_cpu: {text}")
