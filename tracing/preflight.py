"""What can be found wrong with a model before the compiler runs, from runs of the eager model."""

from collections.abc import Sequence
from typing import Any

import torch

from handlers.handler import Handler, as_tuple
from tracing.errors import PreflightError
from tracing.traps import Traps, find_traps

__all__ = ["Traps", "find_traps", "name_outputs", "run_preflight"]


def run_preflight(model: torch.nn.Module, handler: Handler, inputs: Sequence[torch.Tensor]) -> tuple[str, ...]:
    """Return the names of the model's outputs; raise ``PreflightError`` that lists what would go wrong later.

    ``inputs`` are real preprocessed items, batch dimension first.
    """
    shapes = ", ".join(f"{tensor.dtype} {list(tensor.shape)}".replace("torch.", "") for tensor in inputs)
    faults = _find_weight_faults(model)
    try:
        with torch.inference_mode():
            outputs = model(*inputs)
    except Exception as exc:
        faults.append(f"the eager model does not run on the recipe's inputs ({shapes}): {type(exc).__name__}: {exc}")
        raise PreflightError(_join(faults)) from exc
    faults += _find_output_faults(outputs, len(inputs[0]))
    if not faults:
        faults += handler.check_outputs(as_tuple(outputs))
    if faults:
        raise PreflightError(_join(faults))
    return name_outputs(outputs)


def name_outputs(outputs: Any) -> tuple[str, ...]:
    """Return names for what a model returned: a dictionary's keys, else "output" or "output_0", "output_1"..."""
    if isinstance(outputs, dict):
        return tuple(map(str, outputs))
    if isinstance(outputs, torch.Tensor):
        return ("output",)
    return tuple(f"output_{index}" for index in range(len(outputs)))


def _find_weight_faults(model: torch.nn.Module) -> list[str]:
    faults = []
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        faults.append(f"{training[0]} is in training mode; call eval() in build_model and do not call train() after it")
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value.float()).all()]
    # Infinity in a buffer may be a mask's; NaN is nothing's.
    broken += [name for name, value in model.named_buffers() if torch.isnan(value.float()).any()]
    if broken:
        faults.append(f"the weights {', '.join(broken[:5])} hold NaN or infinity; the checkpoint is broken")
    half = [name for name, value in model.named_parameters() if value.dtype == torch.float16]
    if half:
        faults.append(f"the weights {', '.join(half[:5])} are float16, which CPUs compute slowly or not; use .float()")
    return faults


def _find_output_faults(outputs: Any, batch: int) -> list[str]:
    try:
        tensors = as_tuple(outputs)
    except TypeError:
        return [f"forward returned {type(outputs).__name__}, expected a tensor, a tuple of tensors or a dictionary"]
    faults = []
    for name, tensor in zip(name_outputs(outputs), tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            faults.append(f"{name} is {type(tensor).__name__}, expected a tensor; wrap the model in build_model")
        elif tensor.dim() == 0 or tensor.shape[0] != batch:
            faults.append(f"{name} has shape {list(tensor.shape)} for a batch of {batch}; expected the batch first")
        elif not torch.isfinite(tensor.float()).all():
            faults.append(f"{name} holds NaN or infinity for the golden requests")
    return faults


def _join(faults: Sequence[str]) -> str:
    return "preflight: " + "; ".join(faults)
