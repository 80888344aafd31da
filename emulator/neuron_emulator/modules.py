"""From a model to a module that holds compiled graphs, and from such a module to cores: what both frameworks share."""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from neuron_emulator import kernel, placement
from neuron_emulator.arithmetic import Arithmetic
from neuron_emulator.functions import as_module
from neuron_emulator.graphs import make_function
from neuron_emulator.kernel import ASYNC, DYNAMIC_BATCH, LAZY, SETTINGS, WEIGHTS_ON_DEVICE, compiling
from neuron_emulator.payload import Header, pack, read_header
from neuron_emulator.runtime_class import install_runtime_class

NEFF, FLAGS, WEIGHT = "neuron_neff", "neuron_settings", "neuron_weight_"
_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8_e4m3": 1}  # of a weight

on_load: list[Callable[[torch.jit.ScriptModule], None]] = []  # called with each module that torch.jit.load returns

__all__ = ["ASYNC", "DYNAMIC_BATCH", "LAZY", "WEIGHTS_ON_DEVICE", "Flat", "NeuronSubgraph", "Structured", "Subgraph"]
__all__ += ["compile_graph", "compiling", "copy_to_core", "find_subgraphs", "install_load_hook", "on_load"]
__all__ += ["place_subgraphs", "trace_outside", "trace_quietly"]


class NeuronSubgraph(torch.nn.Module):
    """A compiled graph as a module; takes and returns flat tensors."""

    def __init__(self, header: Header, neff: torch.Tensor, weights: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.count = len(header.outputs)
        self.weights = len(weights)
        self.register_buffer(NEFF, neff)
        self.register_buffer(FLAGS, torch.zeros(SETTINGS, dtype=torch.int64))
        for index, weight in enumerate(weights):
            self.register_buffer(f"{WEIGHT}{index}", weight.detach())

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the graph's outputs."""
        call = getattr(torch.ops.neuron, f"forward_v2_{self.count}")
        weights = [getattr(self, f"{WEIGHT}{index}") for index in range(self.weights)]
        outputs = call(list(inputs), getattr(self, NEFF), getattr(self, FLAGS), weights)
        return (outputs,) if self.count == 1 else tuple(outputs)


class Flat(torch.nn.Module):
    """A model of nested inputs and outputs as one of flat tensors; remembers the shape of the nest."""

    def __init__(self, function: Callable[..., Any], example_inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.function = as_module(function)
        leaves, self.in_spec = pytree.tree_flatten(example_inputs)
        self.example = tuple(leaves)
        self.out_spec: Any = None  # Any: torch's private type of a nest's shape

    def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the model's outputs, flattened."""
        outputs = self.function(*pytree.tree_unflatten(list(leaves), self.in_spec))
        found, self.out_spec = pytree.tree_flatten(outputs)
        return tuple(found)


class Structured(torch.nn.Module):
    """A module of flat tensors as one of nested inputs and outputs: the outside of a :class:`Flat`."""

    def __init__(self, module: Callable[..., tuple[torch.Tensor, ...]], out_spec: Any) -> None:
        super().__init__()
        self.module = module
        self.out_spec = out_spec

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs in the structure that the model returned."""
        return pytree.tree_unflatten(list(self.module(*pytree.tree_leaves(inputs))), self.out_spec)


@dataclass(frozen=True)
class Subgraph:
    """A compiled graph found in a TorchScript module, and its switches."""

    module: torch.jit.ScriptModule  # whose attributes the graph's buffers are
    neff: torch.Tensor
    settings: torch.Tensor

    @property
    def header(self) -> Header:
        """What is frozen in the graph."""
        return read_header(self.neff)

    def get_flag(self, flag: int) -> bool:
        """Return a switch such as ``DYNAMIC_BATCH``."""
        return bool(self.settings[flag])

    def set_flag(self, flag: int, value: bool) -> None:
        """Set a switch; saved with the module."""
        self.settings[flag] = int(value)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Separated weights by the name they had in the model."""
        names = self.header.weights
        return {name: getattr(self.module, f"{WEIGHT}{index}") for index, name in enumerate(names)}

    @property
    def cores(self) -> list[tuple[int, ...]]:
        """The process-relative cores of each loaded copy."""
        return kernel.loaded_cores(self.neff)

    def unload(self) -> None:
        """Take the graph off its cores; a later call loads it anew."""
        kernel.unload(self.neff)

    def place(self, *, start_nc: int = -1, nc_count: int = -1, again: bool = False) -> None:
        """Load the graph on cores now; ``again`` moves one that is loaded."""
        kernel.load(self.neff, self.settings, start_nc=start_nc, nc_count=nc_count, again=again)


def compile_graph(
    function: Callable[..., tuple[torch.Tensor, ...]],
    example_inputs: tuple[torch.Tensor, ...],
    *,
    name: str,
    family: str,
    arithmetic: Arithmetic,
    cores: int = 1,
    separate_weights: bool = False,
    dynamic_batch: bool = False,
) -> NeuronSubgraph:
    """Return ``function``, of flat tensors to a tuple of tensors, compiled for ``family`` at the example's shapes.

    Runs the function once under the chip's arithmetic. Raises what tracing it raises.
    """
    module = trace_quietly(function, example_inputs)
    weights = _find_weights(module)
    if separate_weights and weights:
        module = _lower_weights(module, weights, example_inputs)
    named = tuple(weights) if separate_weights else ()
    extra = tuple(weights[each] for each in named)
    with compiling(), torch.no_grad():
        outputs = module(*example_inputs, *extra)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
    if len(outputs) > kernel.MOST_OUTPUTS:
        raise RuntimeError(f"{name} has {len(outputs)} outputs; the emulator takes up to {kernel.MOST_OUTPUTS}")
    header = Header(
        name=name,
        family=family,
        inputs=_describe(example_inputs),
        outputs=_describe(outputs),
        arithmetic=arithmetic,
        cores=cores,
        bytes_per_core=_estimate_bytes(weights.values(), (*example_inputs, *outputs), arithmetic) // cores,
        weights=tuple(each.removeprefix("function.") for each in named),  # by the names of the user's module
    )
    subgraph = NeuronSubgraph(header, pack(header, module), extra)
    subgraph.neuron_settings[DYNAMIC_BATCH] = int(dynamic_batch)  # type: ignore[operator]  # a buffer
    return subgraph


def trace_quietly(
    function: Callable[..., Any], example_inputs: tuple[Any, ...], **options: Any
) -> torch.jit.ScriptModule:
    """Return ``torch.jit.trace`` of a module or function, without gradients, as a module."""
    if isinstance(function, torch.jit.ScriptModule):
        return function
    module = as_module(function)
    with compiling(), _with_fast_paths_as_before(module), torch.no_grad():
        options = {"check_trace": False, "strict": False, **options}
        traced: torch.jit.ScriptModule = torch.jit.trace(module, example_inputs, **options)  # type: ignore[no-untyped-call]
    # A function made from a graph has no name to be saved by.
    torch._C._jit_pass_inline(traced.graph)
    return traced


@contextmanager
def _with_fast_paths_as_before(module: torch.nn.Module) -> Iterator[None]:
    """Keep torch from tracing attention as one fused operator only because gradients are off here, not outside."""
    before = torch.backends.mha.get_fastpath_enabled()
    trained = torch.is_grad_enabled() and any(each.requires_grad for each in module.parameters())
    torch.backends.mha.set_fastpath_enabled(before and not trained)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def trace_outside(module: torch.nn.Module, example_inputs: tuple[Any, ...], **options: Any) -> torch.jit.ScriptModule:
    """Return a module that holds compiled graphs as TorchScript; graphs run without a device meanwhile."""
    return trace_quietly(module.eval(), example_inputs, **options)


def find_subgraphs(module: Any) -> list[Subgraph]:
    """Return the compiled graphs in a module, its submodules included, in the order of their names."""
    return list(_walk(module)) if isinstance(module, torch.nn.Module) else []


def place_subgraphs(module: Any, *, start_nc: int = -1, nc_count: int = -1, again: bool = False) -> None:
    """Load every compiled graph in ``module`` on cores now, but for those that are to be loaded at first use."""
    for subgraph in find_subgraphs(module):
        if again or not subgraph.get_flag(LAZY):
            subgraph.place(start_nc=start_nc, nc_count=nc_count, again=again)


def copy_to_core(module: torch.jit.ScriptModule, nc: int) -> torch.jit.ScriptModule:
    """Return an independent copy of a module, its graphs loaded on the process-relative core ``nc``."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    load: Any = getattr(torch.jit.load, "__wrapped__", torch.jit.load)
    copied: torch.jit.ScriptModule = load(buffer)
    place_subgraphs(copied, start_nc=nc, nc_count=1, again=True)
    return copied


def install_load_hook() -> None:
    """Make ``torch.jit.load`` put compiled graphs on cores, as importing the framework does; twice is harmless."""
    kernel.register()
    install_runtime_class()
    if hasattr(torch.jit.load, "neuron_hook"):
        return
    original: Any = torch.jit.load

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        module = original(*args, **kwargs)
        start_nc, nc_count = placement.current_placement()
        place_subgraphs(module, start_nc=start_nc, nc_count=nc_count)
        for callback in on_load:
            callback(module)
        return module

    load.neuron_hook = True  # type: ignore[attr-defined]
    torch.jit.load = load


def _walk(module: Any) -> Iterator[Subgraph]:
    for _, each in module.named_modules():
        buffers = dict(each.named_buffers(recurse=False))
        if NEFF in buffers:
            yield Subgraph(each, buffers[NEFF], buffers[FLAGS])


def _find_weights(module: torch.jit.ScriptModule) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what tells a weight from others in the same memory, and from what is as empty."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _lower_weights(
    module: torch.jit.ScriptModule, weights: dict[str, torch.Tensor], example_inputs: tuple[torch.Tensor, ...]
) -> torch.jit.ScriptModule:
    """Return the module with its weights as further arguments, in the order of ``weights``."""
    names = {_key(tensor): name for name, tensor in weights.items()}  # one of them where two are the same
    flat: Any = torch._C._jit_pass_lower_graph(module.graph.copy(), module._c)
    graph, values = flat
    order = [names[_key(value)] for value in values]
    function = make_function(graph)
    count = len(example_inputs)

    def lowered(*arguments: torch.Tensor) -> Any:
        given = dict(zip(weights, arguments[count:], strict=True))
        return function(*arguments[:count], *(given[name] for name in order))

    return trace_quietly(lowered, (*example_inputs, *weights.values()))


def _describe(tensors: Sequence[torch.Tensor]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((str(each.dtype).removeprefix("torch."), tuple(each.shape)) for each in tensors)


def _estimate_bytes(weights: Any, tensors: Sequence[torch.Tensor], arithmetic: Arithmetic) -> int:
    """Return weights in the type that the arithmetic keeps them in, and inputs and outputs as they are."""
    size = min(_BYTES[arithmetic.matmul], _BYTES[arithmetic.others])
    held = sum(each.numel() * (size if each.is_floating_point() else each.element_size()) for each in weights)
    return int(held + sum(each.numel() * each.element_size() for each in tensors))
