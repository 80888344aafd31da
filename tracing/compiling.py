"""From an eager model to compiled files: one for each batch size, byte for byte the same whenever the model is."""

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from handlers import targets
from handlers.artifact import Module
from tracing.errors import CompileError
from tracing.recipe import Input, tensor_specs

Progress = Callable[[str], None]
# Of no use to a loader, and different on every machine.
_DROPPED = (".debug_pkl", "/.data/serialization_id")
_MANGLED = re.compile(rb"___torch_mangle_(\d+)")
_BRANCH = "Converting a tensor to a Python boolean"


def compile_modules(
    model: torch.nn.Module,
    *,
    target: str,
    inputs: Sequence[Input],
    batch_sizes: Sequence[int],
    options: dict[str, Any],
    folder: Path,
    progress: Progress,
) -> tuple[Module, ...]:
    """Write the model compiled for each batch size below ``folder`` and return where, smallest batch first.

    A file is named by the hash of its bytes: where a target's code does not depend on the batch, all sizes share one.
    Raises ``CompileError``.
    """
    (folder / "modules").mkdir(parents=True, exist_ok=True)
    modules = []
    for batch in sorted(batch_sizes):
        specs = tensor_specs(inputs, batch)
        content = _compile(model, target, generate_inputs(inputs, batch, seed=0), options, progress)
        file = f"modules/{hashlib.sha256(content).hexdigest()[:16]}.pt"
        (folder / file).write_bytes(content)
        modules.append(Module(batch, file, specs))
        progress(f"compiled batch {batch} for {target}: {file}, {len(content) / 1e6:.2f} MB")
    return tuple(modules)


def generate_inputs(inputs: Sequence[Input], batch: int, *, seed: int) -> tuple[torch.Tensor, ...]:
    """Return seeded random tensors: normal for floats, below ``high`` for integers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for each in inputs:
        shape = (batch, *(int(size) for size in each.shape[1:]))
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


def _compile(
    model: torch.nn.Module, target: str, inputs: Sequence[torch.Tensor], options: dict[str, Any], progress: Progress
) -> bytes:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module = targets.get_target(target).compile(model, inputs, options)
        except Exception as exc:
            raise CompileError(f"{target}: the model cannot be traced: {type(exc).__name__}: {exc}") from exc
    _judge_warnings(caught, progress)
    return canonical_bytes(module)


def _judge_warnings(caught: Sequence[warnings.WarningMessage], progress: Progress) -> None:
    """Raise ``CompileError`` for a branch on data, of which a trace keeps one side; report other doubts."""
    for each in caught:
        if not issubclass(each.category, torch.jit.TracerWarning):  # type: ignore[attr-defined]  # public, not exported
            continue
        text = str(each.message).splitlines()[0]
        place = f"{Path(each.filename).name}:{each.lineno}"
        if _BRANCH in text:
            raise CompileError(
                f"{place} decides by the values of a tensor (if, while, and, or); a traced model would always take the "
                "side that the example took. Use torch.where, or keep the decision out of the model, in a handler"
            )
        progress(f"note: {place}: {text}")
