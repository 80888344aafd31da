"""What would go wrong on a chip with a model that is sound on a processor, found before the compiler runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from handlers.handler import Tensors, as_tuple
from tracing.handler_traps import find_handler_traps
from tracing.host_traps import find_host_traps, find_memory_faults
from tracing.observing import Event, observe_run

# AWS docs: archive/torch-neuron/troubleshooting-guide.rst: a graph with its constants is one protobuf message, 2 GB.
_LARGEST_CONSTANTS = 1.9e9
_INT32 = (-(2**31), 2**31 - 1)
_SATURATE = "--enable-saturate-infinity"
_SOFT = 1e-4  # error over magnitude that kernels for another batch size may make


@dataclass(frozen=True)
class Traps:
    """What was found, a sentence each with its place and what to do."""

    faults: tuple[str, ...] = ()  # the build is to fail
    warnings: tuple[str, ...] = ()  # worth a line; the certificate or the share of the processor decides

    def __add__(self, other: "Traps") -> "Traps":
        return Traps(self.faults + other.faults, self.warnings + other.warnings)


def find_traps(
    model: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    target: str,
    options: Mapping[str, Any],
    batch_sizes: Sequence[int],
    keep_on_cpu: Sequence[str] = (),
    buckets: int = 1,
    instance: Any = None,
    handler: Path | None = None,
) -> Traps:
    """Return what ``target``, "inf1" or "inf2", would stumble over, from a few runs of the eager model.

    ``inputs`` are real items with a batch dimension. ``instance`` is an ``Instance`` of the emulator or anything with
    ``name``, ``cores`` and ``device_gib_per_core`` (Any: the emulator need not be installed). ``handler`` is the file
    of the user's own handler, of which only the source is read. Runs nothing on a chip, raises nothing for a trap.
    """
    missing = [name for name in keep_on_cpu if name not in dict(model.named_modules())]
    known = [name for name in keep_on_cpu if name not in missing]
    found = [
        Traps(tuple(f"keep_on_cpu: the model has no submodule {name!r}" for name in missing)),
        Traps(tuple(_find_weight_faults(model, target, options))),
        _find_input_traps(inputs),
        _find_run_traps(model, inputs, target, options, batch_sizes, known),
        Traps((), tuple(_find_batch_warnings(batch_sizes, options))),
        Traps(tuple(find_memory_faults(model, target, options, len(batch_sizes) * buckets, instance))),
        Traps(*find_host_traps(target)),
    ]
    if handler is not None:
        found.append(Traps(*find_handler_traps(handler, target, separated=bool(options.get("separate_weights")))))
    return reduce(Traps.__add__, found)


def _find_weight_faults(model: torch.nn.Module, target: str, options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.dtype in (torch.float16, torch.bfloat16):
            kind = str(value.dtype).removeprefix("torch.")
            yield f"the weight {name} is {kind}, and tracing runs on the processor; use .float(), the compiler casts"
            break
    training = next((name or "the model" for name, module in model.named_modules() if module.training), None)
    if training:
        yield f"{training} is in training mode, so that dropout and normalisation would be frozen so; call eval()"
    size = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    if target == "inf1" and size > _LARGEST_CONSTANTS and not options.get("separate_weights"):
        yield (
            f"the weights take {size / 1e9:.2f} GB, and neuron-cc reads at most 2 GB with the graph (DecodeError: "
            "tensorflow.GraphDef); set targets['inf1'] = {'separate_weights': True}"
        )


def _find_input_traps(inputs: Sequence[torch.Tensor]) -> Traps:
    faults, warnings = [], []
    for index, tensor in enumerate(inputs):
        if tensor.dtype == torch.int64 and tensor.numel():
            least, largest = int(tensor.min()), int(tensor.max())
            if least < _INT32[0] or largest > _INT32[1]:
                worst = largest if largest > _INT32[1] else least
                faults.append(f"input {index} holds {worst}, of which chips keep 32 bits; use smaller numbers")
            else:
                warnings.append(f"input {index} is int64, which chips hold as int32: values from 2**31 on wrap around")
    return Traps(tuple(faults), tuple(warnings))


def _find_run_traps(
    model: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    target: str,
    options: Mapping[str, Any],
    batch_sizes: Sequence[int],
    kept: Sequence[str],
) -> Traps:
    sizes = [list(tensor.shape) for tensor in inputs]
    if len({shape[0] if shape else None for shape in sizes}) > 1:
        shown = ", ".join(map(str, sizes))
        return Traps(
            (
                f"the inputs have shapes {shown}: a compiled graph splits a batch along dimension 0 of all of them "
                "(Inconsistent batch sizes found on inputs); give each one row for each item",
            )
        )
    pair = tuple(torch.cat([tensor, tensor])[: max(2, len(tensor))] for tensor in inputs)
    try:
        events, outputs = observe_run(model, pair, kept)
    except Exception as exc:  # the model may raise anything
        return Traps((f"the model does not run on a batch of {len(pair[0])}: {type(exc).__name__}: {exc}",))
    found = Traps(tuple(_find_event_faults(events)), tuple(_find_event_warnings(events, target, options)))
    faults = [*_find_output_faults(outputs), *(_find_batch_faults(model, pair, outputs, events, batch_sizes))]
    return found + Traps(tuple(faults))


def _find_event_faults(events: Sequence[Event]) -> Iterator[str]:
    unpacked = any(event.kind == "unpack" for event in events)
    texts: dict[str, Callable[[Event], str]] = {
        "read": lambda event: (
            f"{event.place} takes a tensor's value into Python (if, while, int(), .item()); a traced model would keep "
            "the example's for all requests. Use torch.where, or decide in the handler"
        ),
        "shape": lambda event: (
            f"{event.place}: the shape that {event.operator} gives depends on values, and a compiled graph has fixed "
            "shapes; use a mask with torch.where, or select in the handler's postprocess"
        ),
        "random": lambda event: (
            f"{event.place}: {event.operator} draws random numbers in eval mode; pass training=self.training to dropout"
        ),
        "pack": lambda event: (
            f"{event.place}: a packed sequence is not unpacked inside of the model; call pad_packed_sequence before "
            "anything but an LSTM takes it"
        ),
        "complex": lambda event: f"{event.place}: {event.operator} makes complex numbers, which no chip has; use pairs",
    }
    for kind, text in texts.items():
        event = next((each for each in events if each.kind == kind), None)
        if event is not None and not (kind == "pack" and unpacked):
            yield text(event)


def _find_event_warnings(events: Sequence[Event], target: str, options: Mapping[str, Any]) -> Iterator[str]:
    first = {event.kind: event for event in reversed(events)}
    casts = options.get("cast", "all" if target == "inf1" else "matmult") != "none"
    if "order" in first and casts:
        event = first["order"]
        yield (
            f"{event.place}: {event.operator} ranks numbers that the chip rounds, near ones may change places; return "
            "the scores and rank in the handler, or keep_on_cpu"
        )
    if "infinity" in first and _SATURATE not in options.get("compiler_args", ()):
        yield (
            f"{first['infinity'].place}: -inf, as of a mask, may become NaN on a chip; mask with -1e4, or add "
            f"'{_SATURATE}' to compiler_args"
        )
    if "double" in first:
        yield f"{first['double'].place}: {first['double'].operator} gives float64, which no chip has; use float32"
    if "embedding" in first and target == "inf1":
        yield f"{first['embedding'].place}: torch-neuron leaves embeddings on the processor"


def _find_output_faults(outputs: Any) -> Iterator[str]:
    try:
        found = as_tuple(outputs)
    except TypeError:
        found = (outputs,)
    for index, each in enumerate(found):
        if not isinstance(each, torch.Tensor):
            yield (
                f"output {index} is {type(each).__name__}, expected a tensor: lists of tuples cannot be traced; return "
                "a tensor, a flat tuple of tensors or a dictionary of them"
            )


def _find_batch_faults(
    model: torch.nn.Module, inputs: Tensors, outputs: Any, events: Sequence[Event], batch_sizes: Sequence[int]
) -> Iterator[str]:
    if any(_find_output_faults(outputs)):
        return
    together = as_tuple(outputs)
    for size in [size for size in sorted({1, *batch_sizes}) if size != len(inputs[0])][:3]:
        rows = torch.arange(size) % len(inputs[0])
        try:
            with torch.no_grad():
                found = as_tuple(model(*(tensor[rows] for tensor in inputs)))
        except Exception as exc:  # the model may raise anything
            yield f"the model runs on a batch of {len(inputs[0])} and not of {size}: {type(exc).__name__}: {exc}"
            return
        if size == 1 and not all(_same_row(one, other) for one, other in zip(together, found, strict=True)):
            places = ", ".join(f"{each.operator} at {each.place}" for each in events if each.kind == "across")
            yield (
                "an answer depends on the other items of its batch"
                + (f" (over dimension 0: {places})" if places else "")
                + "; a compiled graph pads and splits batches, and would answer wrong. Reduce over other dimensions"
            )
            return


def _same_row(together: torch.Tensor, alone: torch.Tensor) -> bool:
    if together.dim() == 0 or together.shape[1:] != alone.shape[1:] or not alone.is_floating_point():
        return True  # shapes are preflight's to judge
    finite = alone[:1].isfinite()
    one, other = together[:1][finite], alone[:1][finite]
    if not one.numel():
        return True
    return float((one - other).abs().max()) <= _SOFT * max(float(other.abs().max()), 1e-3)


def _find_batch_warnings(batch_sizes: Sequence[int], options: Mapping[str, Any]) -> Iterator[str]:
    parallel = int(options.get("data_parallel", 1))
    uneven = [size for size in batch_sizes if size % parallel]
    if uneven:
        yield f"batch sizes {uneven} do not split evenly over {parallel} cores and run on one; offer multiples of it"
    if options.get("dynamic_batch") and max(batch_sizes) > 8 * min(batch_sizes):
        yield (
            f"dynamic_batch compiles batch {min(batch_sizes)} only, and a batch of {max(batch_sizes)} is "
            f"{max(batch_sizes) // min(batch_sizes)} runs of it; offer larger batch_sizes only"
        )
