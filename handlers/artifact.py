"""The record of an artifact (``artifact.json``): the single source of facts at run time, read by both halves."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Type, TypeVar

from handlers import integrity
from handlers.errors import BrokenArchive

FORMAT = 1

T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a module takes."""

    name: str  # what the recipe calls it
    dtype: str  # as torch names it without the prefix: "float32"
    shape: Tuple[int, ...]  # with the batch dimension first


@dataclass(frozen=True)
class Module:
    """One compiled TorchScript file: the model at one shape."""

    batch: int  # items in a batch: the first dimension of every input
    file: str  # path inside the archive; modules whose bytes are equal share one file
    inputs: Tuple[TensorSpec, ...]
    bucket: Dict[str, int] = field(default_factory=dict)  # sizes of the dimensions that vary, by the recipe's names


@dataclass(frozen=True)
class Crop:
    """A dimension of an output that follows a varying dimension of an input, neither counted with the batch.

    Its size is that of the input's times ``numerator / denominator``, rounded up.
    """

    output: int
    dimension: int
    input: int
    input_dimension: int
    numerator: int
    denominator: int


@dataclass(frozen=True)
class Variant:
    """The recipe compiled for one target."""

    target: str  # "cpu", "inf1", "inf2"
    emulated: bool  # compiled by the emulator: never runs on a chip
    modules: Tuple[Module, ...]  # smallest bucket first, in it smallest batch first
    outputs: Tuple[str, ...]  # names of what the model returns, in order; "output" for a lone tensor
    cores_per_worker: int  # cores that a worker leases
    options: Dict[str, Any]  # the recipe's options for the target; Any: their types are the target's business
    versions: Dict[str, str]  # compiler and framework that made it
    parameters: int  # number of trained values
    verification: Dict[str, float]  # figures of the comparison with the eager model
    golden_tolerance: float  # how far a number in a golden answer may be off, absolute
    verified_on: str = "cpu"  # where the compiled modules ran for it: "cpu", "inf1", "inf2" or "emulator"
    certificate: Dict[str, Any] = field(default_factory=dict)  # the model under the chip's arithmetic; JSON, {} for cpu
    device_bytes: int = 0  # estimated device memory of one copy of all modules, on each of its cores
    cpu_share: float = 0.0  # share of arithmetic operators that a chip's compiler left to the processor
    crops: Tuple[Crop, ...] = ()  # how outputs of a padded item are brought back to its own size


@dataclass(frozen=True)
class HandlerSpec:
    """The handler and its settings."""

    path: str  # "module:Class", importable from the archive's root
    settings: Dict[str, Any]  # Any: their types are declared by the handler's own settings class


@dataclass(frozen=True)
class Golden:
    """A request with its expected answer, replayed before a worker says it is ready."""

    name: str  # for messages
    file: str  # path inside the archive of the request's body
    content_type: str  # of the body
    answer: Any  # Any: whatever JSON the handler answers


@dataclass(frozen=True)
class Record:
    """All that is known of an artifact."""

    format: int  # of this record; a worker refuses a format it does not know
    name: str  # of the model, as it appears in the URL
    version: str  # of the model
    description: str  # one line for people
    handler: HandlerSpec
    variants: Tuple[Variant, ...]  # in order of preference
    golden: Tuple[Golden, ...]
    sources: Dict[str, str] = field(default_factory=dict)  # file the archive was made from -> sha256
    built_with: Dict[str, str] = field(default_factory=dict)  # kit, Python and archiver versions
    files: Dict[str, str] = field(default_factory=dict)  # every other file of the archive -> sha256
    random_weights: bool = False  # the model was never trained: its answers mean nothing
    requirements: Tuple[str, ...] = ()  # packages with versions that the handler needs beyond torch, numpy and pillow
    record_sha256: str = "0" * 64  # of this record's bytes with this field zero

    @property
    def golden_tolerance(self) -> float:
        """The widest of the variants' tolerances, for those who do not know which variant answers."""
        return max(variant.golden_tolerance for variant in self.variants)


def read_record(folder: Path) -> Record:
    """Return the record in ``folder``; raise ``BrokenArchive`` that says what about it is wrong."""
    path = folder / integrity.RECORD_NAME
    try:
        return parse_record(path.read_bytes())
    except OSError as exc:
        raise BrokenArchive(f"{path} cannot be read ({exc.strerror}); expected the record of an artifact") from exc


def parse_record(raw: bytes) -> Record:
    """Return the record in the bytes of an ``artifact.json``; raise ``BrokenArchive`` that says what is wrong."""
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise BrokenArchive(f"{integrity.RECORD_NAME} is not valid JSON: {exc}") from exc
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise BrokenArchive(
            f"{integrity.RECORD_NAME} has format {found!r}, this kit reads format {FORMAT}; pack the model again"
        )
    record = _decode(Record, content, integrity.RECORD_NAME)
    if not record.variants:
        raise BrokenArchive(f"{integrity.RECORD_NAME} has no variants; pack the model again")
    if not all(variant.modules and variant.modules[0].inputs for variant in record.variants):
        raise BrokenArchive(f"{integrity.RECORD_NAME} has a variant without modules or inputs; pack the model again")
    named = [module.file for variant in record.variants for module in variant.modules]
    unhashed = sorted({*named, *(golden.file for golden in record.golden)} - set(record.files))
    if record.files and unhashed:
        raise BrokenArchive(f"{integrity.RECORD_NAME} has no hash of {', '.join(unhashed)}; pack the model again")
    return record


def dump_record(record: Record) -> bytes:
    """Return the record as sealed JSON bytes; equal records give equal bytes."""
    text = json.dumps(dataclasses.asdict(record), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return integrity.seal(text.encode("utf-8") + b"\n")


def _decode(kind: Type[T], value: Any, where: str) -> T:
    """Return ``value``, parsed JSON, as a dataclass ``kind``; unknown keys are left for later formats to use."""
    if not isinstance(value, dict):
        raise BrokenArchive(f"{where}: expected an object, found {type(value).__name__}")
    values: Dict[str, Any] = {}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]  # every kind passed here is a dataclass
        if each.name in value:
            values[each.name] = _decode_field(each.type, value[each.name], f"{where}: {each.name}")
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise BrokenArchive(f"{where}: {each.name} is missing")
    return kind(**values)


def _decode_field(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    item = _tuple_item(kind)
    if item is not None:
        if not isinstance(value, list):
            raise BrokenArchive(f"{where}: expected a list, found {type(value).__name__}")
        return tuple(_decode_field(item, each, f"{where}[{n}]") for n, each in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _decode(kind, value, where)  # type: ignore[arg-type]  # is_dataclass is also true of instances
    expected = kind if isinstance(kind, type) else _plain_type(kind)
    if expected is float and type(value) is int:
        value = float(value)
    if expected is not None and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
        raise BrokenArchive(f"{where}: expected {expected.__name__}, found {type(value).__name__}")
    return value


def _tuple_item(kind: Any) -> Any:
    """Return ``X`` of a field typed ``Tuple[X, ...]``, else None."""
    return kind.__args__[0] if getattr(kind, "__origin__", None) is tuple else None


def _plain_type(kind: Any) -> Optional[type]:
    return dict if getattr(kind, "__origin__", None) is dict else None


def module_path(entry: str) -> str:
    """Return the file, relative to the archive's root, of the module in a handler path ``module:Class``."""
    module = entry.partition(":")[0]
    return module.replace(".", "/") + ".py"


def python_version() -> str:
    """Return the running Python's version, as the record keeps it: "3.11"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
