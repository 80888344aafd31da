"""What a user writes: the recipe, and the rules it must keep."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from handlers import integrity
from handlers.artifact import TensorSpec

BATCH = "batch"
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
# torch-model-archiver's own rule for names; versions stand in URLs as well.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*==[A-Za-z0-9.+!]+")
# What every archive has at its root.
_TAKEN = frozenset(
    {"artifact.json", "golden", "handlers", "modules", "model-config.yaml", "MAR-INF", "torchserve_entry.py"}
)


@dataclass(frozen=True, kw_only=True)
class Input:
    """One tensor that the model takes.

    A dimension that varies has a name, and each of the recipe's buckets gives it a size.

    >>> Input(name="image", shape=("batch", 3, 224, 224))
    Input(name='image', shape=('batch', 3, 224, 224), dtype='float32', high=2)
    """

    name: str  # of the tensor, for messages and for models with several
    shape: Sequence[str | int]  # "batch" first, then fixed dimensions (numbers) and varying ones (names)
    dtype: str = "float32"  # as torch names it
    high: int = 2  # generated integers are below this, for example the size of a vocabulary


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far the compiled model may be from the eager one before the build fails."""

    absolute: float = 1e-4  # of an output: |compiled - eager| <= absolute + relative * |eager|
    relative: float = 1e-3
    cosine: float = 0.9999  # least cosine between the outputs for one item
    top1: float = 1.0  # least share of items whose largest output is the same one
    golden: float = 0.01  # of a number in a golden answer, absolute; another host rounds differently


# What bf16 arithmetic leaves of the defaults above: it keeps 8 binary digits, a relative error of 2**-9 for each
# operation.
CHIP_TOLERANCES = Tolerances(absolute=0.05, relative=0.05, cosine=0.999, top1=0.99, golden=0.05)


NEEDED = "needed"  # the checkpoint of a recipe without weights of its own: the user gives them, or asks for random ones


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a model is: how to build it, its inputs, its handler, its tolerances. Relative paths are to its file."""

    name: str  # of the archive, and in the URL
    # checkpoint (None: a recipe without, or random weights) -> torch.nn.Module or function of tensors
    build_model: Callable[[Path | None], Any]
    inputs: Sequence[Input]
    handler: str  # a shipped one by name ("image_classifier"), or "file.py:Class" in the recipe's folder
    golden: Sequence[str | Path]  # files with requests; the first is the one that `serve` sends
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the handler
    version: str = "1.0"
    description: str = ""  # one line for people
    checkpoint: str | Path | None = None  # weights, handed to build_model; NEEDED if the user has to give them
    batch_sizes: Sequence[int] = (1, 2, 4, 8)  # compiled; TorchServe hands over at most the largest
    buckets: Sequence[Mapping[str, int]] = ()  # each one a size for every dimension that varies
    batch_delay_ms: int = 1  # how long TorchServe waits for a batch to fill
    cores_per_worker: int = 1
    response_timeout_s: int = 120  # of one batch, and of a worker's start on TorchServe before 0.12
    tolerances: Tolerances = field(default_factory=Tolerances)
    chip_tolerances: Tolerances = CHIP_TOLERANCES  # the same for inf1 and inf2, whose arithmetic is coarser
    keep_on_cpu: Sequence[str] = ()  # last submodules of the model, by dotted name, that a chip's compiler is not given
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # target -> its options
    # Put at the archive's root, where the handler finds them (Handler.folder); a function gets the checkpoint.
    extra_files: Sequence[str | Path] | Callable[[Path | None], Sequence[str | Path]] = ()
    requirements: Sequence[str] = ()  # "name==version" of packages that the handler needs beyond torch, numpy, pillow


def find_faults(recipe: Recipe, folder: Path) -> list[str]:
    """Return all that is wrong with a recipe whose file is in ``folder``, a sentence each; imports the handler."""
    return [
        *_find_name_faults(recipe),
        *_find_input_faults(recipe.inputs),
        *_find_bucket_faults(recipe),
        *_find_number_faults(recipe),
        *_find_file_faults(recipe, folder),
        *_find_handler_faults(recipe, folder),
        *_find_target_faults(recipe.targets),
    ]


def find_extra_files(recipe: Recipe, folder: Path, checkpoint: Path | None) -> list[Path]:
    """Return the extra files of a recipe in ``folder`` whose weights come from ``checkpoint``."""
    files = recipe.extra_files(checkpoint) if callable(recipe.extra_files) else recipe.extra_files
    return [folder / path for path in files]


def tensor_specs(
    inputs: Sequence[Input], batch: int, bucket: Mapping[str, int] = MappingProxyType({})
) -> tuple[TensorSpec, ...]:
    """Return the inputs at one compiled batch size and bucket; without a bucket, dimensions that vary are -1."""
    return tuple(
        TensorSpec(each.name, each.dtype, (batch, *(resolve_size(size, bucket) for size in each.shape[1:])))
        for each in inputs
    )


def resolve_size(size: str | int, bucket: Mapping[str, int]) -> int:
    """Return a dimension's size: its own, or what the bucket gives to its name, or -1."""
    return size if isinstance(size, int) else bucket.get(size, -1)


def plain(value: Any) -> Any:
    """Return settings as JSON gives them back: tuples as lists, keys as texts."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if hasattr(value, "items"):
        return {str(key): plain(each) for key, each in value.items()}
    return value


def sorted_buckets(recipe: Recipe) -> list[dict[str, int]]:
    """Return the recipe's buckets, the one with the fewest values first; one empty bucket if nothing varies."""
    buckets = [dict(bucket) for bucket in recipe.buckets] or [{}]
    return sorted(buckets, key=lambda bucket: (math.prod(bucket.values()), sorted(bucket.items())))


def handler_path(handler: str) -> str:
    """Return "module:Class" of a handler: shipped ones by convention, the user's own from its file.

    >>> handler_path("image_classifier"), handler_path("mine.py:Mine")
    ('handlers.image_classifier:ImageClassifier', 'mine:Mine')
    """
    file, _, name = handler.partition(":")
    if name:
        return f"{file.removesuffix('.py').replace('/', '.')}:{name}"
    return f"handlers.{handler}:{_class_name(handler)}"


def list_handlers() -> list[str]:
    """Return the names of the shipped handlers."""
    folder = Path(integrity.__file__).parent
    names = (path.stem for path in folder.glob("[a-z]*_*.py"))
    return sorted(name for name in names if f"class {_class_name(name)}(" in (folder / f"{name}.py").read_text())


def _class_name(handler: str) -> str:
    return "".join(word.capitalize() for word in handler.split("_"))


def handler_file(recipe: Recipe, folder: Path) -> Path | None:
    """Return the file of the user's own handler, or None for a shipped one."""
    return folder / recipe.handler.partition(":")[0] if ":" in recipe.handler else None


def _find_name_faults(recipe: Recipe) -> list[str]:
    faults = []
    for what, value in (("name", recipe.name), ("version", recipe.version)):
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            faults.append(f"{what} is {value!r}, expected letters, digits, '_', '-' and '.', a letter or digit first")
    if not callable(recipe.build_model):
        faults.append(f"build_model is {recipe.build_model!r}, expected a function of the checkpoint's path")
    elif len(inspect.signature(recipe.build_model).parameters) != 1:
        faults.append("build_model must take one argument, the checkpoint's path (None where the recipe names none)")
    return faults


def _find_input_faults(inputs: Sequence[Input]) -> list[str]:
    if not isinstance(inputs, (list, tuple)) or not inputs or not all(isinstance(each, Input) for each in inputs):
        return [f"inputs is {inputs!r}, expected a list with at least one Input(name=..., shape=('batch', ...))"]
    faults = []
    names = [each.name for each in inputs]
    if len(set(names)) < len(names):
        faults.append(f"inputs have the names {names}, expected no name twice")
    for each in inputs:
        if each.dtype not in DTYPES:
            faults.append(f"input {each.name!r} has dtype {each.dtype!r}, expected one of {', '.join(DTYPES)}")
        sizes = list(each.shape)
        fixed = sizes[1:]
        if sizes[:1] != [BATCH] or not all(_is_count(size) or _is_dimension_name(size) for size in fixed):
            faults.append(
                f"input {each.name!r} has shape {tuple(sizes)}, expected 'batch' and then whole numbers, "
                "or names of dimensions that vary"
            )
    return faults


def _is_dimension_name(size: object) -> bool:
    return isinstance(size, str) and size.isidentifier() and size != BATCH


def _find_bucket_faults(recipe: Recipe) -> list[str]:
    if _find_input_faults(recipe.inputs):
        return []
    varying = {size for each in recipe.inputs for size in each.shape[1:] if isinstance(size, str)}
    if not isinstance(recipe.buckets, (list, tuple)) or not all(isinstance(each, Mapping) for each in recipe.buckets):
        return [f"buckets is {recipe.buckets!r}, expected a list of dictionaries such as {{'sequence': 128}}"]
    faults = []
    if varying and not recipe.buckets:
        faults.append(
            f"the dimension(s) {', '.join(sorted(varying))} vary: buckets must give at least one size of each"
        )
    for bucket in recipe.buckets:
        if set(bucket) != varying or not all(_is_count(size) for size in bucket.values()):
            expected = ", ".join(sorted(varying)) or "none, because no dimension varies"
            faults.append(f"buckets: {dict(bucket)!r}, expected a whole number over 0 for each of: {expected}")
    plain = [tuple(sorted(bucket.items())) for bucket in recipe.buckets]
    if len(set(plain)) < len(plain):
        faults.append("buckets: expected no bucket twice")
    return faults


def _find_number_faults(recipe: Recipe) -> list[str]:
    faults = []
    sizes = recipe.batch_sizes
    if not isinstance(sizes, (list, tuple)) or not sizes or not all(_is_count(size) for size in sizes):
        faults.append(f"batch_sizes is {sizes!r}, expected a list of whole numbers over 0")
    elif len(set(sizes)) < len(sizes):
        faults.append(f"batch_sizes is {sizes!r}, expected no size twice")
    for name in ("batch_delay_ms", "cores_per_worker", "response_timeout_s"):
        if not _is_count(getattr(recipe, name)):
            faults.append(f"{name} is {getattr(recipe, name)!r}, expected a whole number over 0")
    for what in ("tolerances", "chip_tolerances"):
        for each in dataclasses.fields(getattr(recipe, what)):
            value = getattr(getattr(recipe, what), each.name)
            if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                faults.append(f"{what}: {each.name} is {value!r}, expected a number of 0 or more")
    if isinstance(recipe.keep_on_cpu, str) or not all(isinstance(name, str) for name in recipe.keep_on_cpu):
        faults.append(f"keep_on_cpu is {recipe.keep_on_cpu!r}, expected a list of submodules' names: ('softmax',)")
    return faults


def _find_file_faults(recipe: Recipe, folder: Path) -> list[str]:
    faults = []
    if not recipe.golden:
        faults.append("golden is empty, expected at least one file with a request, so that every worker can be checked")
    extra = [] if callable(recipe.extra_files) else recipe.extra_files  # those of a function are looked for later
    named = [("golden", each) for each in recipe.golden] + [("extra_files", each) for each in extra]
    for what, path in named:
        if not isinstance(path, (str, Path)) or not (folder / path).is_file():
            faults.append(f"{what}: there is no file {path} (looked for in {folder})")
    if recipe.checkpoint not in (None, NEEDED) and not (folder / str(recipe.checkpoint)).exists():
        faults.append(f"checkpoint: there is no file {recipe.checkpoint} (looked for in {folder})")
    faults += find_name_clashes([Path(each) for each in extra])
    for each in recipe.requirements:
        if not isinstance(each, str) or not _REQUIREMENT.fullmatch(each):
            faults.append(f"requirements: {each!r}, expected a package with its version: 'name==1.2.3'")
    return faults


def find_name_clashes(files: Sequence[Path]) -> list[str]:
    """Return what is wrong with the names of files that are to lie at an archive's root, a sentence each."""
    names = [path.name for path in files]
    faults = [f"extra_files: {name} is a name of the archive's own; rename yours" for name in names if name in _TAKEN]
    if len(set(names)) < len(names):
        faults.append(f"extra_files have the names {names}, expected no name twice: all lie at the archive's root")
    return faults


def _find_handler_faults(recipe: Recipe, folder: Path) -> list[str]:
    import importlib

    from handlers.handler import Handler

    own = handler_file(recipe, folder)
    if own is not None and not own.is_file():
        return [f"handler: there is no file {own.name} in {folder}"]
    module, _, name = handler_path(recipe.handler).partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except Exception as exc:  # the user's file may raise anything
        return [
            f"handler {recipe.handler!r} cannot be imported ({type(exc).__name__}: {exc}); expected one of "
            f"{', '.join(list_handlers())}, or 'file.py:Class' in the recipe's folder"
        ]
    if not (isinstance(kind, type) and issubclass(kind, Handler)):
        return [f"handler {recipe.handler!r} is no subclass of handlers.handler.Handler"]
    if _find_input_faults(recipe.inputs):
        return []
    return kind.check_settings(dict(recipe.settings), tensor_specs(recipe.inputs, 1))


def _find_target_faults(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    from handlers import targets

    faults = []
    for name, values in options.items():
        if name not in targets.TARGETS:
            faults.append(f"targets: unknown target {name!r}, expected one of {', '.join(targets.TARGETS)}")
        else:
            faults += [f"targets[{name!r}]: {fault}" for fault in targets.get_target(name).check_options(dict(values))]
    return faults


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
