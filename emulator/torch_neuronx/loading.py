"""Switches of a traced module: how it is loaded, where, with which weights, and for batches of which size."""

import warnings
from typing import Any

import torch
from neuron_emulator.modules import ASYNC, DYNAMIC_BATCH, LAZY, WEIGHTS_ON_DEVICE, find_subgraphs, on_load
from neuron_emulator.modules import place_subgraphs as place


def dynamic_batch(neuron_script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Let a traced module take batches of any size, in parts of the traced size; return the same module.

    A call raises ``ValueError`` if another dimension than the first differs from the traced one, or the first differs
    between inputs.
    """
    for subgraph in find_subgraphs(neuron_script):
        subgraph.set_flag(DYNAMIC_BATCH, True)
    _check_batches(neuron_script)
    return neuron_script


def lazy_load(trace: torch.jit.ScriptModule, enable_lazy_load: bool = True) -> None:
    """Let ``torch.jit.load`` leave the module off the device until its first call; set before it is saved."""
    _set(trace, LAZY, enable_lazy_load)


def async_load(trace: torch.jit.ScriptModule, enable_async_load: bool = True) -> None:
    """Let ``torch.jit.load`` load the module in the background; a call waits for it. Set before it is saved."""
    _set(trace, ASYNC, enable_async_load)


def move_trace_to_device(trace: torch.jit.ScriptModule, device_id: int) -> None:
    """Move a traced module, and its separated weights, to one core of the process, counted from 0."""
    place(trace, start_nc=device_id, nc_count=1, again=True)
    _set(trace, WEIGHTS_ON_DEVICE, True)


def replace_weights(neuron_model: torch.jit.ScriptModule, weights: torch.nn.Module | dict[str, torch.Tensor]) -> None:
    """Put other weights, a module's or a state dict's, into a module traced with ``inline_weights_to_neff=False``.

    Warns, and does nothing, if its weights are inside the compiled code. Raises ``ValueError`` for a missing name or
    another shape; nothing is replaced then.
    """
    new = weights.state_dict() if isinstance(weights, torch.nn.Module) else dict(weights)
    old = {name: tensor for subgraph in find_subgraphs(neuron_model) for name, tensor in subgraph.weights.items()}
    if not old:
        warnings.warn(
            "the model has no separated weights, nothing was replaced; trace it with inline_weights_to_neff=False",
            stacklevel=2,
        )
        return
    missing = [name for name in old if name not in new]
    wrong = [name for name in old if name in new and new[name].shape != old[name].shape]
    if missing or wrong:
        raise ValueError(f"weights that are missing: {missing or 'none'}; of another shape: {wrong or 'none'}")
    with torch.no_grad():
        for name, tensor in old.items():
            tensor.copy_(new[name])


def _set(trace: torch.jit.ScriptModule, flag: int, value: bool) -> None:
    for subgraph in find_subgraphs(trace):
        subgraph.set_flag(flag, value)


def _check_batches(module: Any) -> None:
    """Check batches in Python before TorchScript runs, which would make a ``RuntimeError`` of every error."""
    subgraphs = find_subgraphs(module)
    if len(subgraphs) != 1 or subgraphs[0].header.family != "inf2" or not subgraphs[0].get_flag(DYNAMIC_BATCH):
        return
    forward = module.forward
    if hasattr(forward, "checked"):
        return
    shapes = [shape for _, shape in subgraphs[0].header.inputs]

    def checked(*inputs: Any) -> Any:
        found = [tuple(tensor.shape) for tensor in torch.utils._pytree.tree_leaves(inputs)]
        for index, (one, compiled) in enumerate(zip(found, shapes, strict=False)):
            if one[1:] != compiled[1:]:
                raise ValueError(
                    f"input #{index} has shape {list(one)}, traced with {list(compiled)}: dynamic batching changes "
                    "dimension 0 only"
                )
        if len({one[:1] for one in found}) > 1:
            raise ValueError(f"the inputs' dimension 0 differs: {', '.join(str(list(one)) for one in found)}")
        return forward(*inputs)

    checked.checked = True  # type: ignore[attr-defined]
    object.__setattr__(module, "forward", checked)  # a TorchScript module takes no hooks


def _forget_device(module: torch.jit.ScriptModule) -> None:
    """Loading puts the graph on a core and leaves separated weights behind, wherever they were when it was saved."""
    _set(module, WEIGHTS_ON_DEVICE, False)


on_load.append(_check_batches)
on_load.append(_forget_device)
