"""From an eager model to compiled files: one for each batch size, byte for byte the same whenever the model is."""

import hashlib
import io
import json
import os
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from handlers import targets
from handlers.artifact import Module
from handlers.handler import as_tuple
from tracing.errors import CompileError
from tracing.observing import observe_run
from tracing.recipe import Input, Recipe, plain, resolve_size, sorted_buckets, tensor_specs

Progress = Callable[[str], None]
# Of no use to a loader, and different on every machine.
_DROPPED = (".debug_pkl", "/.data/serialization_id")
_MANGLED = re.compile(rb"___torch_mangle_(\d+)")
_BRANCH = "Converting a tensor to a Python boolean"


def compile_modules(
    model: torch.nn.Module,
    *,
    target: str,
    recipe: Recipe,
    options: dict[str, Any],
    folder: Path,
    progress: Progress,
    end: torch.nn.Module | None = None,
    cache: Path | None = None,
) -> tuple[Module, ...]:
    """Write the model compiled for each bucket and batch size below ``folder`` and return where, smallest first.

    ``end`` follows the model and is not given to the compiler. A file is named by the hash of its bytes: where a
    target's code does not depend on the batch, all sizes share one. Compiled files are kept in ``cache`` and used again
    while the model, the options and the versions are the same. Raises ``CompileError``.
    """
    (folder / "modules").mkdir(parents=True, exist_ok=True)
    backend = targets.get_target(target)
    modules = []
    for bucket in sorted_buckets(recipe):
        for batch in sorted(recipe.batch_sizes):
            compiled = backend.compiled_batch(batch, recipe.batch_sizes, options)
            inputs = generate_inputs(recipe.inputs, compiled, seed=0, bucket=bucket)
            began = time.monotonic()
            content = _compile_cached(model, end, target, inputs, options, progress, cache)
            file = f"modules/{hashlib.sha256(content).hexdigest()[:16]}.pt"
            (folder / file).write_bytes(content)
            modules.append(Module(batch, file, tensor_specs(recipe.inputs, batch, bucket), bucket))
            sizes = "".join(f", {name} {size}" for name, size in bucket.items())
            progress(
                f"compiled batch {batch}{sizes} for {target}: {file}, {len(content) / 1e6:.2f} MB, "
                f"{time.monotonic() - began:.1f} s"
            )
    return tuple(modules)


def generate_inputs(
    inputs: Sequence[Input], batch: int, *, seed: int, bucket: Mapping[str, int] = MappingProxyType({})
) -> tuple[torch.Tensor, ...]:
    """Return seeded random tensors of a bucket's shape: normal for floats, below ``high`` for integers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for each in inputs:
        shape = (batch, *(resolve_size(size, bucket) for size in each.shape[1:]))
        dtype: torch.dtype = getattr(torch, each.dtype)
        if dtype.is_floating_point:
            tensors.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, each.high, shape, generator=generator).to(dtype))
    return tuple(tensors)


def canonical_bytes(module: torch.jit.ScriptModule) -> bytes:
    """Return a module's file without what depends on where and when it was made.

    torch writes the paths of the traced sources into ``*.debug_pkl``, a checksum of them all into
    ``serialization_id``, and the number of earlier traces of the process into the names of classes. Loaders do without
    the first two, and the names are counted anew. Members keep their order; times and compression are fixed.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.jit.save(module, buffer)
    output, numbers = io.BytesIO(), dict[bytes, int]()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as kept:
        for member in source.infolist():
            if not member.filename.endswith(_DROPPED):
                name = _renumber(_fix_root(member.filename).encode(), numbers).decode()
                content = source.read(member)
                kept.writestr(zipfile.ZipInfo(name), _renumber(content, numbers) if _names_classes(name) else content)
    return output.getvalue()


def _names_classes(member: str) -> bool:
    return member.endswith(".pkl") or "/code/" in member


def _renumber(content: bytes, numbers: dict[bytes, int]) -> bytes:
    """Number the classes in the order of their first mention; ``numbers`` holds those met before."""
    return _MANGLED.sub(lambda found: b"___torch_mangle_%d" % numbers.setdefault(found[1], len(numbers)), content)


def _fix_root(name: str) -> str:
    # torch names the top folder after the file that is written; a buffer gives "archive".
    return re.sub(r"^[^/]+/", "archive/", name)


def _compile_cached(
    model: torch.nn.Module,
    end: torch.nn.Module | None,
    target: str,
    inputs: Sequence[torch.Tensor],
    options: dict[str, Any],
    progress: Progress,
    cache: Path | None,
) -> bytes:
    if cache is None:
        return _compile(model, end, target, inputs, options, progress)
    key = hashlib.sha256(_trace_eager(model, end, inputs))
    key.update(json.dumps([target, plain(options), targets.get_target(target).versions()], sort_keys=True).encode())
    kept = cache / f"{key.hexdigest()[:32]}.pt"
    if not kept.exists():
        content = _compile(model, end, target, inputs, options, progress)
        cache.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(content)
        fresh.replace(kept)
    return kept.read_bytes()


def _trace_eager(model: torch.nn.Module, end: torch.nn.Module | None, inputs: Sequence[torch.Tensor]) -> bytes:
    """Return bytes that change whenever the model's code, weights or shapes do."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        parts = model if end is None else _WithEnd(model, end)
        traced = torch.jit.trace(parts, tuple(inputs), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    shapes = [f"{tensor.dtype}{list(tensor.shape)}" for tensor in inputs]
    return canonical_bytes(traced) + repr(shapes).encode()


def _compile(
    model: torch.nn.Module,
    end: torch.nn.Module | None,
    target: str,
    inputs: Sequence[torch.Tensor],
    options: dict[str, Any],
    progress: Progress,
) -> bytes:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module = targets.get_target(target).compile(model, inputs, options)
            if end is not None:
                both = _WithEnd(module, end)
                with torch.no_grad():
                    module = torch.jit.trace(both, tuple(inputs), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        except Exception as exc:
            raise CompileError(f"{target}: the model cannot be compiled: {type(exc).__name__}: {exc}") from exc
    _judge_warnings(caught, model, inputs, progress)
    return canonical_bytes(module)


class _WithEnd(torch.nn.Module):
    """A compiled module and what follows it on the processor."""

    def __init__(self, body: torch.nn.Module, end: torch.nn.Module) -> None:
        super().__init__()
        self.body = body
        self.end = end

    def forward(self, *tensors: torch.Tensor) -> Any:
        return as_tuple(self.end(*as_tuple(self.body(*tensors))))


def _judge_warnings(
    caught: Sequence[warnings.WarningMessage],
    model: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    progress: Progress,
) -> None:
    """Raise ``CompileError`` for a branch on data, of which a trace keeps one side; report other doubts.

    torch warns of branches on shapes alike, which are harmless: compiled shapes are fixed.
    """
    if any(_BRANCH in str(each.message) for each in caught):
        reads = [event for event in observe_run(model, inputs)[0] if event.kind == "read"]
        if reads:
            raise CompileError(
                f"{reads[0].place} decides by the values of a tensor (if, while, int(), .item()); a traced model would "
                "always take the side that the example took. Use torch.where, or decide in a handler"
            )
    for each in caught:
        if not issubclass(each.category, torch.jit.TracerWarning):  # type: ignore[attr-defined]  # public, not exported
            continue
        text = str(each.message).splitlines()[0]
        place = f"{Path(each.filename).name}:{each.lineno}"
        progress(f"note: {place}: {text}")
