"""A compiled graph as bytes: what a NEFF file is to the chip, a header and a TorchScript file are to the emulator."""

import dataclasses
import io
import json
import re
import zipfile
from dataclasses import dataclass
from typing import Any

import torch

from neuron_emulator.arithmetic import Arithmetic

FORMAT = 1
_MAGIC = b"NEURON-EMULATOR\0"
# Of no use to a loader, and different at each trace; without them the same model gives the same bytes.
_DROPPED = (".debug_pkl", "/.data/serialization_id")
_MANGLED = re.compile(rb"___torch_mangle_(\d+)")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What is frozen in a compiled graph (AWS docs: the state map of an artefact)."""

    name: str  # of the graph, for the runtime's records
    family: str  # "inf1" or "inf2": the chip generation it was compiled for
    inputs: tuple[tuple[str, Shape], ...]  # dtype and shape of each, such as ("float32", (1, 3, 224, 224))
    outputs: tuple[tuple[str, Shape], ...]
    arithmetic: Arithmetic
    cores: int  # NeuronCores that one copy takes: more than one for a NeuronCore Pipeline
    bytes_per_core: int  # estimated device memory: weights in the arithmetic's type, inputs and outputs
    weights: tuple[str, ...] = ()  # names of separated weights, in the order of the operator's last argument
    input_names: tuple[str, ...] = ()  # where known, for messages
    format: int = FORMAT


def pack(header: Header, module: torch.jit.ScriptModule) -> torch.Tensor:
    """Return header and module as a uint8 tensor of one dimension."""
    head = json.dumps(dataclasses.asdict(header), sort_keys=True).encode()
    content = _MAGIC + len(head).to_bytes(8, "little") + head + _canonical_file(module)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def read_header(neff: torch.Tensor) -> Header:
    """Return the header of a packed graph; raise ``RuntimeError`` for bytes that are none."""
    content = _read_bytes(neff, 0, len(_MAGIC) + 8)
    if not content.startswith(_MAGIC):
        raise RuntimeError("Could not load the model status=2 message=Invalid")
    size = int.from_bytes(content[-8:], "little")
    found: dict[str, Any] = json.loads(_read_bytes(neff, len(content), len(content) + size))
    if found["format"] != FORMAT:
        raise RuntimeError("Could not load the model status=10 message=Unsupported NEFF version")
    for name in ("inputs", "outputs"):
        found[name] = tuple((dtype, tuple(shape)) for dtype, shape in found[name])
    for name in ("weights", "input_names"):
        found[name] = tuple(found[name])
    return Header(**{**found, "arithmetic": Arithmetic(**found["arithmetic"])})


def unpack_module(neff: torch.Tensor) -> torch.jit.ScriptModule:
    """Return the TorchScript module of a packed graph."""
    start = len(_MAGIC) + 8
    size = int.from_bytes(_read_bytes(neff, start - 8, start), "little")
    load = getattr(torch.jit.load, "__wrapped__", torch.jit.load)  # the inside of a graph is placed with its outside
    module: torch.jit.ScriptModule = load(io.BytesIO(_read_bytes(neff, start + size, neff.numel())), map_location="cpu")
    return module


def _read_bytes(neff: torch.Tensor, start: int, stop: int) -> bytes:
    return bytes(neff[start:stop].contiguous().numpy())


def _canonical_file(module: torch.jit.ScriptModule) -> bytes:
    buffer, output = io.BytesIO(), io.BytesIO()
    torch.jit.save(module, buffer)
    numbers: dict[bytes, int] = {}
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as kept:
        for member in source.infolist():
            if member.filename.endswith(_DROPPED):
                continue
            name = _renumber(member.filename.encode(), numbers).decode()
            content = source.read(member)
            coded = name.endswith(".pkl") or "/code/" in name
            kept.writestr(zipfile.ZipInfo(name), _renumber(content, numbers) if coded else content)
    return output.getvalue()


def _renumber(content: bytes, numbers: dict[bytes, int]) -> bytes:
    """Count torch's class names anew: the number is that of earlier traces in the process."""
    return _MANGLED.sub(lambda found: b"___torch_mangle_%d" % numbers.setdefault(found[1], len(numbers)), content)
