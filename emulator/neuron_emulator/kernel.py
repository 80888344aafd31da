"""The TorchScript operators ``neuron::forward_v2_<n>``: what runs a compiled graph inside any saved module.

A saved module names the operator, so that loading it in a process that has not imported the framework fails as it does
with the real one: "Unknown builtin op: neuron::forward_v2_1".
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from neuron_emulator.arithmetic import ChipMode
from neuron_emulator.batches import count_bytes, count_rows, split_batch, validate_inputs
from neuron_emulator.descriptors import call_in_children
from neuron_emulator.payload import Header, read_header, unpack_module
from neuron_emulator.runtime import Loaded, Need, Runtime, get_runtime

MOST_OUTPUTS = 256  # of one graph; TorchScript fixes the number in the operator's name
DYNAMIC_BATCH, LAZY, ASYNC, WEIGHTS_ON_DEVICE = range(4)  # places in the settings tensor
SETTINGS = 8  # its size; the others are kept for later

Tensors = tuple[torch.Tensor, ...]
_library: Any = torch.library.Library("neuron", "FRAGMENT")  # type: ignore[no-untyped-call]
_registry_lock = threading.RLock()
_compiling = threading.local()
_models: dict[int, "_Model"] = {}  # address of a packed graph in memory -> its state in this process


@dataclass
class _Model:
    """A packed graph in this process."""

    storage: Any  # a weak reference, which torch gives no type, to the packed graph: when that is gone, so is the model
    header: Header
    module: torch.jit.ScriptModule
    copies: list[Loaded] = field(default_factory=list)  # where it is loaded; calls take turns
    runtime: Runtime | None = None  # that it is loaded in
    calls: int = 0
    loading: threading.Thread | None = None  # of an asynchronous load
    fault: BaseException | None = None  # of an asynchronous load
    lock: threading.RLock = field(default_factory=threading.RLock)


def register() -> None:
    """Define the operators in this process; doing so twice is harmless."""
    with _registry_lock:
        if hasattr(torch.ops.neuron, "forward_v2_1"):
            return
        for count in range(1, MOST_OUTPUTS + 1):
            results = ", ".join(["Tensor"] * count)
            name = f"forward_v2_{count}"
            _library.define(f"{name}(Tensor[] inputs, Tensor neff, Tensor settings, Tensor[] weights) -> ({results})")
            _library.impl(name, _make_kernel(count), "CompositeExplicitAutograd")


@contextmanager
def compiling() -> Iterator[None]:
    """Run graphs without a device inside a ``with``: the frameworks trace on hosts that have none."""
    before = getattr(_compiling, "on", False)
    _compiling.on = True
    try:
        yield
    finally:
        _compiling.on = before


def load(
    neff: torch.Tensor, settings: torch.Tensor, *, start_nc: int = -1, nc_count: int = -1, again: bool = False
) -> None:
    """Load a packed graph on cores of this process, unless it is there already; ``again`` moves it."""
    model = _find(neff)
    with model.lock:
        _wait(model)
        if model.copies and not again:
            return
        _unload(model)
        if bool(settings[ASYNC]):
            model.loading = threading.Thread(target=_load_later, args=(model, start_nc, nc_count), daemon=True)
            model.loading.start()
        else:
            _load_now(model, start_nc, nc_count)


def unload(neff: torch.Tensor) -> None:
    """Take a packed graph off its cores; a later call loads it anew."""
    model = _find(neff)
    with model.lock:
        _unload(model)


def loaded_cores(neff: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the process-relative cores of each copy of a packed graph; empty if it is not loaded."""
    return [copy.cores for copy in _find(neff).copies]


def _make_kernel(count: int) -> Callable[..., Any]:
    def run(inputs: list[torch.Tensor], neff: torch.Tensor, settings: torch.Tensor, weights: list[torch.Tensor]) -> Any:
        outputs = _run(_find(neff), neff, tuple(inputs), settings, tuple(weights))
        return outputs[0] if count == 1 else outputs

    return run


def _run(model: _Model, neff: torch.Tensor, inputs: Tensors, settings: torch.Tensor, weights: Tensors) -> Tensors:
    header = model.header
    if getattr(_compiling, "on", False):
        return _compute(model, inputs, weights)
    dynamic = bool(settings[DYNAMIC_BATCH]) and bool(inputs)
    validate_inputs(header, inputs, dynamic=dynamic)
    copy = _take_copy(model, neff, settings)
    # Separated weights of inf2 go along with every call until move_trace_to_device has moved them
    # (AWS docs: api-torch-neuronx-trace.rst); on inf1 they are loaded with the graph.
    moved = count_bytes(weights) if header.family == "inf2" and not settings[WEIGHTS_ON_DEVICE] else 0
    if not dynamic:
        return _execute(model, copy, inputs, weights, moved=moved, items=count_rows(inputs), padded=0)
    parts = []
    for chunk, missing in split_batch(header, inputs):
        items = count_rows(chunk) - missing
        parts.append(_execute(model, copy, chunk, weights, moved=moved, items=items, padded=missing))
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _execute(
    model: _Model, copy: Loaded, inputs: Tensors, weights: Tensors, *, moved: int, items: int, padded: int
) -> Tensors:
    outputs = get_runtime().execute(
        copy,
        lambda: _compute(model, inputs, weights),
        bytes_in=count_bytes(inputs) + moved,
        bytes_out=count_bytes(model.header.outputs),
        items=items,
        padded=padded,
    )
    if padded:  # what is computed of padding is nobody's result; what it is filled with is not documented
        outputs = tuple(out[:items] for out in outputs)
    if any(out.is_floating_point() and bool(out.isnan().any()) for out in outputs):
        # AWS docs: NaN results count as completed_with_num_err and can raise status 1003.
        get_runtime().count_numerical_error(copy)
        raise RuntimeError("Failed to execute the model status=1003 message=Numerical Error")
    return outputs


def _compute(model: _Model, inputs: Tensors, weights: Tensors) -> Tensors:
    mode = _Guarded(model.header.arithmetic)
    try:
        # Not optimised: a fuser, such as oneDNN's, would compute several operators at once, past the mode.
        with torch.no_grad(), torch.jit.optimized_execution(False), mode:  # type: ignore[attr-defined]
            outputs = model.module(*inputs, *weights)
    except RuntimeError as exc:
        if mode.out_of_bounds:
            raise RuntimeError(
                "Failed to execute the model status=1006 message=Execution Out-Of-Bounds Memory Access"
            ) from exc
        raise
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


class _Guarded(ChipMode):  # type: ignore[no-untyped-call]  # of torch's __init_subclass__
    """Notes an index beyond its table, of which TorchScript passes on the failure and not the text."""

    out_of_bounds = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator. Any: the signature is torch's."""
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except IndexError:
            self.out_of_bounds = True
            raise
        except RuntimeError as exc:
            self.out_of_bounds = "out of bounds" in str(exc) or "out of range" in str(exc)
            raise


def _take_copy(model: _Model, neff: torch.Tensor, settings: torch.Tensor) -> Loaded:
    with model.lock:
        _wait(model)
        if model.fault is not None:
            raise model.fault
        if not model.copies:
            _load_now(model, -1, -1)
        model.calls += 1
        return model.copies[(model.calls - 1) % len(model.copies)]


def _wait(model: _Model) -> None:
    """Wait for an asynchronous load, under the model's lock, which that load does not take."""
    if model.loading is not None:
        model.loading.join()
        model.loading = None


def _load_later(model: _Model, start_nc: int, nc_count: int) -> None:
    try:
        _load_now(model, start_nc, nc_count)
    except BaseException as exc:
        model.fault = exc


def _load_now(model: _Model, start_nc: int, nc_count: int) -> None:
    header = model.header
    need = Need(header.name, header.family, header.cores, header.bytes_per_core)
    model.runtime = get_runtime()
    model.copies = model.runtime.load(need, start_nc=start_nc, nc_count=nc_count)


def _unload(model: _Model) -> None:
    _wait(model)
    model.fault = None
    while model.copies and model.runtime is not None:
        model.runtime.unload(model.copies.pop())


def _find(neff: torch.Tensor) -> _Model:
    with _registry_lock:
        for address in [address for address, model in _models.items() if model.storage.expired()]:
            _unload(_models.pop(address))
        found = _models.get(neff.data_ptr())
        if found is None:
            storage = StorageWeakRef(neff.untyped_storage())  # type: ignore[no-untyped-call]
            found = _Model(storage, read_header(neff), unpack_module(neff))
            _models[neff.data_ptr()] = found
        return found


def _enter_child() -> None:
    """Give a forked child locks of its own: other threads of the parent, which may hold them, do not exist in it."""
    global _registry_lock
    _registry_lock = threading.RLock()
    for model in _models.values():
        model.lock = threading.RLock()


call_in_children(_enter_child)
