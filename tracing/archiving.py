"""From an artifact folder to a ``.mar``: torch-model-archiver's layout and manifest, the same bytes every time."""

import dataclasses
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

from handlers import artifact, integrity
from handlers.artifact import Record
from tracing.errors import PackingError
from tracing.loading import LoadedRecipe
from tracing.own_code import find_foreign_imports, find_own_code
from tracing.recipe import handler_file

HANDLERS = Path(__file__).resolve().parent.parent / "handlers"
ENTRY = "torchserve_entry.py"
MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = "model-config.yaml"
# The archiver writes the time of day; a fixed one keeps equal archives equal. 1980 is the first year a zip can hold.
_CREATED_ON = "01/01/1980 00:00:00"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_AWKWARD = ",*?["  # characters with a meaning in the archiver's list of extra files


def write_archive(artifact_folder: Path, loaded: LoadedRecipe, output: Path) -> Record:
    """Write the artifact as an archive at ``output``, whole or not at all, and return the record inside it.

    The layout and manifest come from torch-model-archiver. Equal artifacts give equal bytes, whatever the folder, user,
    umask, time zone or order of files. Raises ``PackingError``.
    """
    try:
        with _private_folder() as private:
            record = artifact.read_record(artifact_folder)
            validate_imports(loaded)
            model_folder = _lay_out(record, artifact_folder, loaded, private)
            sealed = _seal_folder(record, model_folder)
            _write_zip(model_folder, output)
            return sealed
    except OSError as exc:
        raise PackingError(f"{output} cannot be written: {exc}; free the space or fix the permission") from exc


def _lay_out(record: Record, artifact_folder: Path, loaded: LoadedRecipe, private: Path) -> Path:
    """Return a folder with all the archive's files but the record's final hashes, made by the archiver's own code."""
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    (private / ENTRY).write_bytes((HANDLERS / "entry.py").read_bytes())
    config_file = private / CONFIG
    config_file.write_text(render_config(record, loaded))
    extra = private / "extra"
    shutil.copytree(artifact_folder, extra, ignore=shutil.ignore_patterns(integrity.RECORD_NAME))
    _copy_handlers(extra / "handlers")
    _copy_own_files(loaded, extra)
    config = ModelArchiverConfig(
        model_name=record.name,
        handler=str(private / ENTRY),
        version=record.version,
        extra_files=str(extra),
        config_file=str(config_file),
        runtime="python",
        export_path=str(private),
    )
    manifest = json.loads(ModelExportUtils.generate_manifest_json(config))
    manifest["createdOn"] = _CREATED_ON
    model_folder = Path(
        ModelExportUtils.copy_artifacts(
            record.name,
            config.runtime,
            handler=config.handler,
            extra_files=config.extra_files,
            config_file=config.config_file,
        )
    )
    manifest_file = model_folder / MANIFEST
    manifest_file.parent.mkdir()
    manifest_file.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return model_folder


def validate_imports(loaded: LoadedRecipe) -> None:
    """Raise ``PackingError`` that names what the user's handler imports, a container lacks and the recipe omits."""
    own = handler_file(loaded.recipe, loaded.folder)
    foreign = find_foreign_imports(find_own_code(own, loaded.folder), loaded.folder) if own else []
    names = {each.partition("==")[0].lower().replace("-", "_") for each in loaded.recipe.requirements}
    unnamed = [each for each in foreign if not provides(names, each.package)]
    if unnamed:
        what = ", ".join(f"{each.package} ({each.place})" for each in unnamed)
        raise PackingError(
            f"the handler imports {what}, which a container for TorchServe may lack; name it in the recipe, with its "
            'version: requirements=["name==1.2.3"], and install it where TorchServe runs'
        )


def provides(requirements: Collection[str], package: str) -> bool:
    """Whether one of the ``requirements``, lower-case names, brings a package that is imported by another name."""
    distributions = packages_distributions().get(package, [])
    return bool({package.lower(), *(each.lower().replace("-", "_") for each in distributions)} & set(requirements))


def render_config(record: Record, loaded: LoadedRecipe) -> str:
    """Return the archive's ``model-config.yaml``.

    Both timeouts are written because TorchServe takes its own 120 s, not the server's setting, once there is a yaml.
    The number of workers is left to the server, which knows the host.
    """
    largest = max(module.batch for variant in record.variants for module in variant.modules)
    timeout = loaded.recipe.response_timeout_s
    return (
        f"batchSize: {largest}\n"
        f"maxBatchDelay: {loaded.recipe.batch_delay_ms}\n"
        f"responseTimeout: {timeout}\n"
        f"startupTimeout: {timeout}\n"
    )


def _copy_handlers(destination: Path) -> None:
    for path in sorted(HANDLERS.rglob("*.py")):
        if path.name == "entry.py":
            continue  # lies at the root, under a name of its own
        copy = destination / path.relative_to(HANDLERS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def _copy_own_files(loaded: LoadedRecipe, destination: Path) -> None:
    """Copy the user's own handler, with what it imports, to where a worker imports from; no name may be taken."""
    own = handler_file(loaded.recipe, loaded.folder)
    for path in find_own_code(own, loaded.folder) if own else []:
        name = path.relative_to(loaded.folder.resolve())
        if (destination / name).is_file() and (destination / name).read_bytes() == path.read_bytes():
            continue  # named as an extra file as well
        if (destination / name.parts[0]).is_file() or name.parts[0] in (ENTRY, "handlers", "golden", "modules"):
            raise PackingError(f"{path} cannot be packed: the archive has a {name.parts[0]} of its own; rename yours")
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination / name)


def _seal_folder(record: Record, model_folder: Path) -> Record:
    names = [path.relative_to(model_folder).as_posix() for path in model_folder.rglob("*") if path.is_file()]
    files = {name: integrity.hash_file(model_folder / name) for name in sorted(names)}
    content = artifact.dump_record(dataclasses.replace(record, files=files))
    (model_folder / integrity.RECORD_NAME).write_bytes(content)
    return artifact.parse_record(content)


def _write_zip(folder: Path, output: Path) -> None:
    """Write all files of ``folder`` into a zip: sorted, stored, fixed times and modes; replace ``output`` at once.

    Stored rather than deflated: weights hardly shrink, and zlib's output differs between its versions.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _ZIP_TIME)
                member.create_system = 3  # Unix, whatever packs it
                member.external_attr = 0o100644 << 16
                archive.writestr(member, path.read_bytes())
        # mkstemp makes files private; an archive is as readable as any other file the user makes.
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(output)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder of our own that the archiver takes for the system's temporary one.

    It stages below that folder under the model's name and deletes what is there, so two builds of one model, or a
    user's folder of that name, would be destroyed.
    """
    base = tempfile.gettempdir()
    if any(character in base for character in _AWKWARD):
        base = "/tmp"  # noqa: S108  mkdtemp makes a private folder there
    private = Path(tempfile.mkdtemp(prefix="torchserve-neuron-", dir=base))
    saved, saved_level = tempfile.tempdir, logging.root.level
    staging = private / "staging"
    staging.mkdir()
    tempfile.tempdir = str(staging)
    try:
        yield private
    finally:
        tempfile.tempdir = saved
        logging.root.setLevel(saved_level)
        shutil.rmtree(private, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
