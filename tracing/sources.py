"""What an archive is made from: the files of the recipe and of its weights, by name and sha256."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from handlers import integrity
from handlers.artifact import Record
from tracing.loading import LoadedRecipe, list_files, load_recipe
from tracing.own_code import find_own_code
from tracing.recipe import find_extra_files, handler_file


def hash_sources(loaded: LoadedRecipe, code: Sequence[Path]) -> dict[str, str]:
    """Return name -> sha256 of all that the recipe's archive is made from; names do not depend on the machine."""
    recipe, folder = loaded.recipe, loaded.folder
    files = {f"code/{path.resolve().relative_to(folder).as_posix()}": path for path in (loaded.file, *code)}
    own = handler_file(recipe, folder)
    if own is not None:
        files.update({f"code/{path.relative_to(folder.resolve())}": path for path in find_own_code(own, folder)})
    files.update({f"golden/{number}-{Path(path).name}": folder / path for number, path in enumerate(recipe.golden)})
    files.update(_find_extra(loaded) if not callable(recipe.extra_files) else {})
    files.update({} if loaded.lacks_weights else _find_weights(loaded))
    return _hash_files(files)


def _find_weights(loaded: LoadedRecipe) -> dict[str, Path]:
    """Return the checkpoint, or the files in it if it is a folder, and the extra files that are found through it."""
    checkpoint = loaded.checkpoint
    files = _find_extra(loaded) if callable(loaded.recipe.extra_files) else {}
    if checkpoint is None:
        return files
    if checkpoint.is_dir():
        inside = {f"checkpoint/{path.relative_to(checkpoint).as_posix()}": path for path in list_files(checkpoint)}
        return {**files, **inside}
    return {**files, "checkpoint": checkpoint}


def _find_extra(loaded: LoadedRecipe) -> dict[str, Path]:
    checkpoint = loaded.checkpoint if callable(loaded.recipe.extra_files) else None
    extra = find_extra_files(loaded.recipe, loaded.folder, checkpoint)
    return {f"extra/{number}-{path.name}": path for number, path in enumerate(extra)}


def _hash_files(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: integrity.hash_file(path) for name, path in sorted(files.items())}


def has_sources(record: Record, loaded: LoadedRecipe, sources: Mapping[str, str]) -> bool:
    """Whether the record's archive was made from ``sources``, and from the weights that are given, if any must be."""
    if loaded.lacks_weights:
        known = {name: digest for name, digest in record.sources.items() if not _is_of_weights(name, loaded)}
        return known == sources
    return record.sources == sources and record.random_weights == loaded.has_random_weights


def has_weights(record: Record, model: str, weights: str) -> bool:
    """Whether an artifact with this record was built from these weights, a path or "random"."""
    loaded = load_recipe(model, weights=weights)
    found = {name: digest for name, digest in record.sources.items() if _is_of_weights(name, loaded)}
    return record.random_weights == loaded.has_random_weights and found == _hash_files(_find_weights(loaded))


def _is_of_weights(name: str, loaded: LoadedRecipe) -> bool:
    """Whether a source's name is that of the checkpoint, of a file in it, or of one that is found through it."""
    kind = name.partition("/")[0]
    return kind == "checkpoint" or (kind == "extra" and callable(loaded.recipe.extra_files))
