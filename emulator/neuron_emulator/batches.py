"""Inputs of a compiled graph: what it takes, how a dynamic batch is cut to its size, and how many bytes move."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from neuron_emulator.payload import Header

Tensors = tuple[torch.Tensor, ...]


def validate_inputs(header: Header, inputs: Tensors, *, dynamic: bool) -> None:
    """Raise ``RuntimeError`` for inputs of other shapes or dtypes than compiled; ``dynamic`` leaves dimension 0 open.

    All of a dynamic batch's inputs must have the same number of rows, and at least one.
    """
    if len(inputs) != len(header.inputs):
        raise RuntimeError(f"Incorrect number of inputs: received {len(inputs)}, expected {len(header.inputs)}")
    for index, (tensor, (dtype, shape)) in enumerate(zip(inputs, header.inputs, strict=True)):
        found, received = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        resized = (*found[:1], *shape[1:]) if dynamic and shape and found[:1] != (0,) else shape
        if found != resized:
            raise RuntimeError(
                f"Incorrect tensor shape at input #{index}: received {list(found)}, expected {list(shape)}"
            )
        if received != dtype:
            # The wording of the real framework is not documented; this one is the emulator's.
            raise RuntimeError(f"Incorrect tensor dtype at input #{index}: received {received}, expected {dtype}")
    sizes = [str(tensor.shape[0]) if tensor.dim() else "missing" for tensor in inputs]
    if dynamic and (len(set(sizes)) > 1 or "missing" in sizes):
        raise RuntimeError(f"Inconsistent batch sizes found on inputs: dimension 0 is {', '.join(sizes)}")


def split_batch(header: Header, inputs: Tensors) -> Iterator[tuple[Tensors, int]]:
    """Yield parts of the compiled batch size, the last one filled up with zeros, and how many rows are filled.

    Raises ``RuntimeError`` if the graph has an output without a row for each input's: parts of it cannot be joined.
    """
    size, rows = header.inputs[0][1][0], count_rows(inputs)
    if rows != size:
        _validate_outputs(header, size)
    for start in range(0, rows, size):
        part = tuple(tensor[start : start + size] for tensor in inputs)
        missing = size - part[0].shape[0]
        yield (tuple(_fill_up(each, missing) for each in part) if missing else part), missing


def count_rows(inputs: Sequence[torch.Tensor]) -> int:
    """Return the size of the batch: dimension 0 of the first input, 1 if it has none."""
    return inputs[0].shape[0] if inputs and inputs[0].dim() else 1


def count_bytes(tensors: Sequence[Any]) -> int:
    """Return the bytes of tensors, or of (dtype, shape) pairs such as a header has."""
    total = 0
    for each in tensors:
        if isinstance(each, torch.Tensor):
            total += each.numel() * each.element_size()
        else:
            dtype, shape = each
            total += torch.Size(shape).numel() * torch.empty((), dtype=getattr(torch, dtype)).element_size()
    return total


def _validate_outputs(header: Header, size: int) -> None:
    for index, (_, shape) in enumerate(header.outputs):
        if not shape or shape[0] != size:
            # What the real framework does is not documented.
            raise RuntimeError(
                f"Inconsistent batch sizes found on outputs: output #{index} has the shape {list(shape)}, expected "
                f"{size} rows, as the inputs were compiled with; run batches of {size}, or keep the rows apart"
            )


def _fill_up(tensor: torch.Tensor, missing: int) -> torch.Tensor:
    return torch.cat([tensor, tensor.new_zeros((missing, *tensor.shape[1:]))])
