"""The build, step by step: recipe -> artifact folder -> archive; and whether an archive is out of date."""

import hashlib
import mimetypes
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from handlers import artifact, integrity, targets
from handlers.artifact import Golden, HandlerSpec, Record, Variant
from handlers.errors import KitError
from handlers.neuron import INSTANCE_VARIABLE
from tracing.errors import BuildError, RecipeError
from tracing.loading import LoadedRecipe, build_model, importing_from, load_recipe, modules_from
from tracing.recipe import (
    find_extra_files,
    find_name_clashes,
    handler_file,
    handler_path,
    plain,
    sorted_buckets,
    tensor_specs,
)
from tracing.sources import has_sources, hash_sources

Progress = Callable[[str], None]
KIT = Path(__file__).resolve().parent.parent
# What decides the bytes of an archive besides the recipe and the kit's own code.
_PACKAGES = ("numpy", "pillow", "torch", "torch-model-archiver")


def trace(
    model: str, *, target_names: Sequence[str], folder: Path, progress: Progress, weights: str | None = None
) -> Record:
    """Build the artifact of the recipe ``model`` in ``folder``, replacing what is there, and return its record.

    The archive prefers the targets in the order given. ``weights`` replace the recipe's: a path, or "random". Raises
    ``KitError`` with all that is wrong; ``folder`` is then left as it was.
    """
    for name in target_names:
        targets.get_target(name)
    loaded = load_recipe(model, weights=weights)
    progress(f"recipe {loaded.recipe.name} {loaded.recipe.version} from {loaded.file}{_describe_weights(loaded)}")
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        with importing_from(loaded.folder):
            record = _trace_into(building, loaded, target_names, progress)
        (building / integrity.RECORD_NAME).write_bytes(artifact.dump_record(record))
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
        return record
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _describe_weights(loaded: LoadedRecipe) -> str:
    if loaded.has_random_weights:
        return ", RANDOM WEIGHTS: it is not trained, its answers mean nothing"
    return f", weights from {loaded.checkpoint}" if loaded.weights is not None else ""


def is_up_to_date(record: Record, model: str, target_names: Sequence[str], weights: str | None = None) -> bool:
    """Whether an archive with this record is what building ``model`` for these targets would give now.

    Where the recipe needs the user's weights and none are given, those that the archive was built from will do.
    """
    try:
        loaded = load_recipe(model, weights=weights, checked=False)
        code = [name.removeprefix("code/") for name in record.sources if name.startswith("code/")]
        sources = hash_sources(loaded, [loaded.folder / name for name in code])
    except (OSError, RecipeError):
        return False
    return (
        has_sources(record, loaded, sources)
        and record.built_with == _list_versions()
        and [variant.target for variant in record.variants] == list(target_names)
        and all(_is_of_this_framework(variant) for variant in record.variants)
    )


def _is_of_this_framework(variant: Variant) -> bool:
    """Whether building the variant now would take the same framework: the emulator, or the SDK's version installed."""
    if variant.target == "cpu":
        return True
    if variant.emulated or INSTANCE_VARIABLE in os.environ:
        return variant.emulated and INSTANCE_VARIABLE in os.environ
    return all(_version(name) == found for name, found in variant.versions.items() if name.startswith("torch-neuron"))


def _trace_into(folder: Path, loaded: LoadedRecipe, target_names: Sequence[str], progress: Progress) -> Record:
    import torch

    from tracing.variants import Source, build_variant

    # One thread: sums are then taken in one order, and the figures are the same on every build.
    torch.set_num_threads(1)
    recipe = loaded.recipe
    bodies = _copy_golden(folder, loaded)
    _copy_extra(folder, loaded)
    handler = _make_handler(loaded, folder)
    model = build_model(loaded)
    samples = [sample for golden, body in bodies for sample in _preprocess_golden(handler, golden, body)]
    source = Source(recipe, model, handler, samples, handler_file(recipe, loaded.folder))
    cache = folder.parent / ".compiled"
    variants = tuple(build_variant(name, source, folder, cache=cache, progress=progress) for name in target_names)
    golden = _answer_golden(model, handler, bodies, loaded, variants[0])
    return Record(
        format=artifact.FORMAT,
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        handler=HandlerSpec(handler_path(recipe.handler), plain(recipe.settings)),
        variants=variants,
        golden=golden,
        sources=hash_sources(loaded, [*loaded.code, *modules_from(loaded.folder).values()]),
        built_with=_list_versions(),
        files={name: integrity.hash_file(folder / name) for name in _list_files(folder)},
        random_weights=loaded.has_random_weights,
        requirements=tuple(recipe.requirements),
    )


def _answer_golden(
    model: Any, handler: Any, bodies: Sequence[tuple[Golden, bytes]], loaded: LoadedRecipe, variant: Variant
) -> tuple[Golden, ...]:
    """Return the golden requests with the eager model's answers, numbers rounded to six decimals."""
    from handlers.cores import Lease
    from handlers.handler import as_tuple
    from handlers.worker import Bucket, Worker

    recipe = loaded.recipe
    blank = Record(artifact.FORMAT, recipe.name, recipe.version, "", HandlerSpec("", {}), (variant,), ())
    runs = {1: lambda *tensors: as_tuple(model(*tensors))}
    buckets = [Bucket(tensor_specs(recipe.inputs, 1, bucket), runs) for bucket in sorted_buckets(recipe)]
    worker = Worker(blank, variant, handler, buckets, Lease((), 0, []), [])
    answered = []
    for golden, body in bodies:
        (answer,) = worker.answer([_read(handler, golden, body)])
        if isinstance(answer, KitError):
            raise RecipeError(str(loaded.file), [f"golden: {golden.name} is refused by the handler: {answer}"])
        answered.append(Golden(golden.name, golden.file, golden.content_type, _round_numbers(answer)))
    return tuple(answered)


def _copy_extra(folder: Path, loaded: LoadedRecipe) -> None:
    files = find_extra_files(loaded.recipe, loaded.folder, loaded.checkpoint)
    missing = [f"extra_files: there is no file {path}" for path in files if not path.is_file()]
    faults = missing + find_name_clashes(files)
    if faults:
        raise RecipeError(str(loaded.file), faults)
    for path in files:
        shutil.copyfile(path, folder / path.name)


def _copy_golden(folder: Path, loaded: LoadedRecipe) -> list[tuple[Golden, bytes]]:
    (folder / "golden").mkdir()
    copied = []
    for number, path in enumerate(loaded.recipe.golden):
        body = (loaded.folder / path).read_bytes()
        name = Path(path).name
        file = f"golden/{number}-{name}"
        (folder / file).write_bytes(body)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        copied.append((Golden(name, file, kind, None), body))
    return copied


def _read(handler: Any, golden: Golden, body: bytes) -> Any:
    return handler.read({"body": body}, {"body": golden.content_type})


def _preprocess_golden(handler: Any, golden: Golden, body: bytes) -> list[Any]:
    from handlers.handler import as_sample

    try:
        return [as_sample(handler.preprocess(item)) for item in _read(handler, golden, body).items]
    except Exception as exc:  # the handler may be the user's own
        what = str(exc) if isinstance(exc, KitError) else f"{type(exc).__name__}: {exc}"
        raise BuildError(f"golden request {golden.name} cannot be read: {what}") from exc


def _make_handler(loaded: LoadedRecipe, folder: Path) -> Any:
    import importlib

    module, _, name = handler_path(loaded.recipe.handler).partition(":")
    buckets = [tensor_specs(loaded.recipe.inputs, 1, bucket) for bucket in sorted_buckets(loaded.recipe)]
    return getattr(importlib.import_module(module), name)(plain(loaded.recipe.settings), buckets, folder)


def _list_versions() -> dict[str, str]:
    versions = {name: _version(name) for name in _PACKAGES}
    return {**versions, "python": artifact.python_version(), "machine": platform.machine(), "kit": _hash_kit()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _hash_kit() -> str:
    """Return one hash over the code that makes archives and the code that goes into them."""
    digest = hashlib.sha256()
    folders = ("tracing", "handlers", "emulator")
    files = sorted(path for name in folders for path in (KIT / name).rglob("*.py") if "recipes" not in path.parts)
    for path in files:
        digest.update(path.relative_to(KIT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _round_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_round_numbers(each) for each in value]
    return {key: _round_numbers(each) for key, each in value.items()} if isinstance(value, dict) else value
