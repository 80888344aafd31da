"""What a model does in one run that a chip's compiler would not take, or take wrong: events with their places."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_TORCH = os.path.dirname(torch.__file__) + os.sep  # noqa: PTH120  compared with names of code files
# What an operator means for a compiler: those that matter only if the request decides what they do, and the others.
_OF_REQUESTS = {
    **dict.fromkeys(("_local_scalar_dense", "is_nonzero", "item"), "read"),
    **dict.fromkeys(("nonzero", "masked_select", "repeat_interleave", "unique_dim"), "shape"),
    **dict.fromkeys(("_unique", "_unique2", "unique_consecutive"), "shape"),
    **dict.fromkeys(("argmax", "argmin", "topk", "sort"), "order"),
}
_ALWAYS = {
    **dict.fromkeys(("bernoulli", "bernoulli_", "native_dropout", "rand_like", "randn_like"), "random"),
    **dict.fromkeys(("rand", "randn", "randint", "normal_", "uniform_", "multinomial"), "random"),
    "_pack_padded_sequence": "pack",
    "_pad_packed_sequence": "unpack",
    "embedding": "embedding",
}
_REDUCTIONS = (
    *("mean", "sum", "amax", "amin", "prod", "var", "std", "cumsum", "sort", "flip", "roll"),
    *("_softmax", "_log_softmax", "max", "min"),
)


@dataclass(frozen=True)
class Event:
    """Something that a run did, and where."""

    # read: a value decides in Python; shape: a value decides a shape; random: numbers are drawn; order: ranks values;
    # pack, unpack: of sequences; embedding; across: over the requests of a batch; infinity: -inf was made; complex and
    # double: types that no chip has
    kind: str
    operator: str  # as TorchScript names it, without "aten::"
    place: str  # "file.py:12 in layer.1"


def observe_run(
    model: torch.nn.Module, inputs: Sequence[torch.Tensor], keep_on_cpu: Sequence[str] = ()
) -> tuple[list[Event], Any]:
    """Return the events of one forward, each place once, and what it returned. Any: a model returns what it likes.

    ``inputs`` have a batch dimension. What happens in submodules of ``keep_on_cpu`` is not looked at, unless it would
    break the tracing of the whole. Raises what the model raises.
    """
    observer = _Observer(inputs, set(keep_on_cpu))
    # Not no_grad: that would show operators such as _pad_packed_sequence only in their parts.
    with torch.inference_mode(), observer.following(model), observer:
        outputs = model(*inputs)
    return list(dict.fromkeys(observer.events)), outputs


class _Observer(TorchDispatchMode):
    """Looks at each operator. Knows which tensors come from the inputs: only those differ between requests."""

    def __init__(self, inputs: Sequence[torch.Tensor], kept: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.events: list[Event] = []
        self.kept = kept
        self.running: list[str] = []  # names of the submodules that are being run
        self.batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
        # The tensors themselves: a freed one's address would be given to another, which had nothing to do with inputs.
        self.derived: dict[int, torch.Tensor] = {_address(tensor): tensor for tensor in inputs}

    @contextmanager
    def following(self, model: torch.nn.Module) -> Iterator[None]:
        """Know the names of submodules while they run."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name and not isinstance(module, torch.jit.ScriptModule):
                    before = module.register_forward_pre_hook(lambda *_, name=name: self.running.append(name))
                    after = module.register_forward_hook(lambda *_: _drop_last(self.running), always_call=True)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one operator, then run it. Any: the signature is torch's."""
        name = func._schema.name.removeprefix("aten::")
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        derived = any(_address(each) in self.derived for each in given)
        for kind in self._judge_call(name, given, args, derived):
            self._note(kind, name)
        if func._can_decompose():
            with self:
                return func.decompose(*args, **(kwargs or {}))
        outputs = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]
        if name == "_pack_padded_sequence" and _address(args[1]) not in self.derived:
            made_of_requests = made[:1]  # the sizes of a packed sequence's steps come from its lengths alone
        else:
            made_of_requests = made if derived else []
        self.derived.update({_address(each): each for each in made_of_requests})
        for kind in self._judge_outputs(name, made):
            self._note(kind, name)
        return outputs

    def _judge_call(self, name: str, given: list[torch.Tensor], args: Any, derived: bool) -> Iterator[str]:
        if name in _ALWAYS:
            yield _ALWAYS[name]
        if not derived:
            return
        if name in _OF_REQUESTS:
            yield _OF_REQUESTS[name]
        if name in ("max", "min") and len(args) > 1:
            yield "order"
        if name in ("index", "index_put_") and any(each.dtype == torch.bool for each in given[1:]):
            yield "shape"
        if name in _REDUCTIONS and self._spans_batch(args, given[0]):
            yield "across"

    def _spans_batch(self, args: Any, tensor: torch.Tensor) -> bool:
        return tensor.dim() > 0 and tensor.shape[0] == self.batch > 1 and 0 in _dimensions(args, tensor.dim())

    def _judge_outputs(self, name: str, made: list[torch.Tensor]) -> Iterator[str]:
        for tensor in made:
            if tensor.is_complex():
                yield "complex"
            elif tensor.dtype == torch.float64:
                yield "double"
            elif tensor.is_floating_point() and bool(torch.isneginf(tensor).any()):
                yield "infinity"

    def _note(self, kind: str, name: str) -> None:
        kept = any(each in self.kept for each in self.running)
        if not kept or kind in ("read", "shape", "random"):
            self.events.append(Event(kind, name, _find_place(self.running)))


def _drop_last(names: list[str]) -> None:
    names.pop()  # a hook that returned the name would replace the module's output


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _dimensions(args: Any, dims: int) -> list[int]:
    """Return the dimensions that a reduction goes over: those it names, or all."""
    named = args[1] if len(args) > 1 and not isinstance(args[1], bool) else None
    if named is None or named == []:
        return list(range(dims))
    found = named if isinstance(named, (list, tuple)) else [named]
    return [each % dims for each in found if isinstance(each, int)]


def _find_place(running: Sequence[str]) -> str:
    frame, line = sys._getframe(1), "forward"
    while frame is not None:
        file = frame.f_code.co_filename
        if frame.f_code is observe_run.__code__:
            break  # the model itself has no code of its own, only torch's layers
        if file != __file__ and not file.startswith(_TORCH) and not file.startswith("<"):
            line = f"{os.path.basename(file)}:{frame.f_lineno}"  # noqa: PTH119  a code file's name
            break
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return f"{line} in {running[-1]}" if running else line
