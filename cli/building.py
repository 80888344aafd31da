"""The commands that build and look at archives: trace, pack, mar, check, inspect, predict, recipes."""

import argparse
import dataclasses
import json
import mimetypes
import os
import sys
from pathlib import Path
from typing import Any

from cli.signing import add_trusted, trusted_keys
from handlers import artifact, integrity
from handlers.artifact import Record
from handlers.errors import KitError

ROOT = Path(__file__).resolve().parent.parent
_Subparsers = Any  # argparse's own type for this is private


def register(subparsers: _Subparsers) -> None:
    """Add the commands of this module."""
    for name, run, text in (
        ("trace", _trace, "compile and verify a recipe; writes the artifact folder"),
        ("pack", _pack, "write the archive of a traced recipe"),
        ("mar", _mar, "trace and pack, if the archive is missing or out of date"),
    ):
        parser = subparsers.add_parser(name, help=text, description=text)
        parser.add_argument("model", metavar="MODEL", help="a shipped recipe's name, or the path of your own")
        add_target(parser)
        add_weights(parser)
        parser.add_argument("--force", action="store_true", help="build even if nothing changed")
        add_folders(parser)
        parser.set_defaults(run=run)
    for name, run, text in (
        ("check", _check, "run an archive in a clean interpreter and replay its golden requests"),
        ("inspect", _inspect, "print what is inside an archive"),
        ("predict", _predict, "answer requests from an archive without a server"),
    ):
        parser = subparsers.add_parser(name, help=text, description=text)
        parser.add_argument("archive", metavar="FILE", type=Path, help="a .mar file")
        if name == "predict":
            parser.add_argument(
                "requests", metavar="REQUEST", type=Path, nargs="+", help="a file with a request's body"
            )
        if name != "inspect":
            add_trusted(parser)
            add_emulation(parser)
        if name == "inspect":
            parser.add_argument("--json", action="store_true", help="print the whole record as JSON")
        parser.set_defaults(run=run)
    parser = subparsers.add_parser("recipes", help="list the shipped recipes")
    parser.set_defaults(run=_recipes)


def ensure_archive(
    model: str, target: str = "cpu", *, store: Path, build: Path, force: bool = False, weights: str | None = None
) -> Path:
    """Return the archive of a recipe in ``store``, built if it is missing or anything it is made from has changed.

    ``weights`` replace the recipe's: a path, or "random". Where the recipe has none of its own and none are given, the
    archive that is there stands, unless anything else has changed.
    """
    from tracing import building, checking
    from tracing.loading import load_recipe

    target_names = target.split(",")
    archive = store / f"{load_recipe(model, checked=False).recipe.name}.mar"
    if archive.exists() and not force:
        try:
            if building.is_up_to_date(checking.read_archive_record(archive), model, target_names, weights):
                return archive
        except KitError as exc:
            report(f"building again: {exc}")
    folder = _artifact_folder(build, archive)
    record = building.trace(model, target_names=target_names, folder=folder, progress=report, weights=weights)
    _write(model, folder, archive, record)
    return archive


def _write(model: str, folder: Path, archive: Path, record: Record) -> Record:
    from tracing import archiving
    from tracing.loading import load_recipe

    record = archiving.write_archive(folder, load_recipe(model), archive)
    if record.requirements:
        names = ", ".join(record.requirements)
        report(f"needs {names} beyond torch, numpy and pillow; install it where TorchServe runs")
    report(f"wrote {archive}, {archive.stat().st_size / 1e6:.2f} MB, sha256 {integrity.hash_file(archive)}")
    return record


def _trace(options: argparse.Namespace) -> int:
    emulate(options)
    from tracing import building
    from tracing.loading import load_recipe

    archive = options.store / f"{load_recipe(options.model, checked=False).recipe.name}.mar"
    folder, targets = _artifact_folder(options.build, archive), options.target.split(",")
    building.trace(options.model, target_names=targets, folder=folder, progress=report, weights=options.weights)
    print(folder)
    return 0


def _pack(options: argparse.Namespace) -> int:
    from tracing.loading import load_recipe
    from tracing.sources import has_weights

    archive = options.store / f"{load_recipe(options.model, checked=False).recipe.name}.mar"
    folder = _artifact_folder(options.build, archive)
    record = artifact.read_record(folder)
    if options.weights is not None and not has_weights(record, options.model, options.weights):
        raise KitError(f"{folder} was traced with other weights than {options.weights}; trace it again with these")
    _write(options.model, folder, archive, record)
    print(archive)
    return 0


def _mar(options: argparse.Namespace) -> int:
    emulate(options)
    existed = _modified(options)
    folders = {"store": options.store, "build": options.build}
    archive = ensure_archive(options.model, options.target, **folders, force=options.force, weights=options.weights)
    if existed == archive.stat().st_mtime_ns:
        report(f"{archive} is up to date")
    print(archive)
    return 0


def _modified(options: argparse.Namespace) -> int | None:
    from tracing.loading import load_recipe

    archive: Path = options.store / f"{load_recipe(options.model, checked=False).recipe.name}.mar"
    return archive.stat().st_mtime_ns if archive.exists() else None


def _check(options: argparse.Namespace) -> int:
    emulate(options)
    from serving.signing import verified
    from tracing import checking

    with verified(options.archive, trusted_keys(options), progress=report) as archive:
        record = checking.check_archive(archive, progress=report)
    print(f"{options.archive}: {record.name} {record.version} is fit to be served")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from tracing import checking

    record = checking.read_archive_record(options.archive)
    digest = integrity.hash_file(options.archive)
    if options.json:
        print(json.dumps({"archive_sha256": digest, **dataclasses.asdict(record)}, indent=2, ensure_ascii=False))
    else:
        print(render_record(record, options.archive.stat().st_size, digest))
    return 0


def _predict(options: argparse.Namespace) -> int:
    emulate(options)
    from serving.signing import verified
    from tracing import checking

    missing = [str(path) for path in options.requests if not path.is_file()]
    if missing:
        raise KitError(f"there is no file {', '.join(missing)}; give files that each hold the body of one request")
    requests = [(path, mimetypes.guess_type(path.name)[0] or "application/octet-stream") for path in options.requests]
    with verified(options.archive, trusted_keys(options), progress=report) as archive:
        answers = checking.predict(archive, requests)
    for answer in answers:
        # As a server's client would see it; several answers, one to a line.
        print(answer.body.decode("utf-8", "replace"))
    return 0 if all(answer.status == 200 for answer in answers) else 1


def _recipes(options: argparse.Namespace) -> int:
    from tracing.errors import RecipeError
    from tracing.loading import list_recipes, load_recipe

    for name in list_recipes():
        try:
            print(f"{name:<14} {load_recipe(name, checked=False).recipe.description}")
        except RecipeError:  # of one that is a package which is not installed; make installs it for MODEL=
            print(f"{name:<14} (needs more packages: make venv MODEL={name})")
    return 0


def render_record(record: Record, size: int, digest: str) -> str:
    """Return a record as a table for people."""
    rows = [("RANDOM WEIGHTS", "it is not trained: its answers mean nothing")] if record.random_weights else []
    rows += [
        ("model", f"{record.name} {record.version}  {record.description}".rstrip()),
        ("archive", f"{size:,} bytes, sha256 {digest}"),
        ("handler", record.handler.path),
        ("needs", ", ".join(("torch", "numpy", "pillow", *record.requirements))),
        ("golden requests", f"{', '.join(each.name for each in record.golden)}"),
        ("built with", ", ".join(f"{name} {version}" for name, version in record.built_with.items())),
    ]
    for variant in record.variants:
        rows.append(("variant", variant.target + (" (EMULATED)" if variant.emulated else "")))
        rows.append(("  versions", ", ".join(f"{name} {version}" for name, version in variant.versions.items())))
        rows += _render_variant(variant)
    rows.append(("files", ""))
    rows += [(f"  {digest[:16]}…", name) for name, digest in record.files.items()]
    rows.append((f"  {record.record_sha256[:16]}…", integrity.RECORD_NAME))
    return "\n".join(f"{name:<28}{value}".rstrip() for name, value in rows)


def _render_variant(variant: artifact.Variant) -> list[tuple[str, str]]:
    rows = [("  parameters", f"{variant.parameters:,}"), ("  cores a worker", str(variant.cores_per_worker))]
    if variant.target != "cpu":
        options = ", ".join(f"{name} {value}" for name, value in variant.options.items())
        rows += [
            ("  options", options),
            ("  device memory a core", f"{variant.device_bytes / 2**20:.1f} MiB (estimate)"),
        ]
        rows += [("  left to the processor", f"{variant.cpu_share:.1%} of the operators")]
    rows += [
        (f"  batch {module.batch}", f"{_render_inputs(module)} -> {', '.join(variant.outputs)}  {module.file}")
        for module in variant.modules
    ]
    rows.append(("  verified on", variant.verified_on))
    rows.append(("  golden tolerance", f"{variant.golden_tolerance:g}"))
    return rows + [(f"  {name}", f"{value:g}") for name, value in variant.verification.items()]


def _render_inputs(module: artifact.Module) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in module.inputs)


def _artifact_folder(build: Path, archive: Path) -> Path:
    return build / archive.stem


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where archives and artifacts lie."""
    store = Path(os.environ.get("MODEL_STORE", ROOT / "model_store"))
    parser.add_argument("--store", type=Path, default=store, help="folder of the archive (default: model_store)")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "artifacts", help="folder of artifacts")


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to build for, and whether on an emulated chip."""
    parser.add_argument("--target", default="cpu", help="cpu (default), inf1, inf2; several, best first: inf1,cpu")
    add_emulation(parser)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add the option that replaces the recipe's weights."""
    text = "weights instead of the recipe's: a file, a folder, or the word random, which leaves the model untrained"
    parser.add_argument("--weights", metavar="PATH", help=text)


def add_emulation(parser: argparse.ArgumentParser) -> None:
    """Add the options that ask for the emulator."""
    parser.add_argument("--emulate", action="store_true", help="emulate the chip on this processor")
    parser.add_argument("--instance", help="instance type to emulate, such as inf1.6xlarge (default: the smallest)")


def emulate(options: argparse.Namespace) -> None:
    """Ask for the emulator if the options do."""
    if options.emulate:
        from serving.emulation import enable_emulation

        instance = enable_emulation(options.instance, _list_targets(options))
        report(f"EMULATED: {instance}; no chip computes anything here")
    elif options.instance:
        raise KitError("--instance says what to emulate; add --emulate (EMULATE=1)")


def _list_targets(options: argparse.Namespace) -> list[str]:
    """Return the targets that a command is about: those it is told, or those of the archive that it is given."""
    if hasattr(options, "target"):
        return str(options.target).split(",")
    from tracing import checking

    return [variant.target for variant in checking.read_archive_record(options.archive).variants]


def report(text: str) -> None:
    """Print a line of progress, apart from results."""
    print(text, file=sys.stderr, flush=True)
