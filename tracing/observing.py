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
_READS = ("_local_scalar_dense", "is_nonzero", "item")
_SHAPES = ("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave")
_RANDOM = ("bernoulli", "bernoulli_", "native_dropout", "rand_like", "randn_like", "normal_", "uniform_", "multinomial")
_ORDER = ("argmax", "argmin", "topk", "sort")
_PACK, _UNPACK = "_pack_padded_sequence", "_pad_packed_sequence"
_COPIES = (
    "mean",
    "sum",
    "amax",
    "amin",
    "prod",
    "var",
    "std",
    "_softmax",
    "_log_softmax",
    "cumsum",
    "sort",
    "flip",
    "roll",
)


@dataclass(frozen=True)
class Event:
    """Something that a run did, and where."""

    kind: str  # "read", "shape", "random", "order", "pack", "unpack", "infinity", "across", "complex", "double" ...
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
    with torch.no_grad(), observer.following(model), observer:
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
        outputs = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]
        if derived:
            self.derived.update({_address(each): each for each in made})
        for kind in self._judge_outputs(name, made):
            self._note(kind, name)
        return outputs

    def _judge_call(self, name: str, given: list[torch.Tensor], args: Any, derived: bool) -> Iterator[str]:
        if name in _READS and derived:
            yield "read"
        if name in _SHAPES and derived:
            yield "shape"
        if name in ("index", "index_put_") and derived and any(each.dtype == torch.bool for each in given[1:]):
            yield "shape"
        if name in _RANDOM:
            yield "random"
        if (name in _ORDER or (name in ("max", "min") and len(args) > 1)) and derived:
            yield "order"
        if name == _PACK:
            yield "pack"
        if name == _UNPACK:
            yield "unpack"
        if name == "embedding":
            yield "embedding"
        if name in _COPIES and derived and given and given[0].dim() and given[0].shape[0] == self.batch > 1:
            if 0 in _dimensions(args, given[0].dim()):
                yield "across"

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
        if file != __file__ and not file.startswith(_TORCH) and not file.startswith("<"):
            line = f"{os.path.basename(file)}:{frame.f_lineno}"  # noqa: PTH119  a code file's name
            break
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return f"{line} in {running[-1]}" if running else line
