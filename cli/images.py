"""The command ``image``: a container image with models in it, built by whichever engine is there."""

import argparse
import os
import subprocess
from pathlib import Path
from typing import Any

from cli.building import ROOT, add_folders, add_weights, ensure_archive, report
from handlers.errors import KitError

_Subparsers = Any  # argparse's own type for this is private


def register(subparsers: _Subparsers) -> None:
    """Add the command of this module."""
    text = "build a container image that serves models, with podman, docker or buildah"
    parser = subparsers.add_parser("image", help=text, description=text)
    models_help = "recipes, whose archives are built if out of date, or .mar files; none: they are mounted at /models"
    parser.add_argument("models", metavar="MODEL", nargs="*", help=models_help)
    parser.add_argument("--target", default="cpu", help="cpu (default), inf1 or inf2")
    parser.add_argument("--base", default="", help="base image, or a name from docker/images.json (default: its first)")
    parser.add_argument("--tag", help="of the image (default: torchserve-neuron:TARGET)")
    parser.add_argument("--engine", default="", help="podman, docker or buildah (default: the first that works)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels that pip takes before it asks an index")
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME==VERSION",
        help="for the handlers; needs go on their own",
    )
    option_help = "for the engine, such as --option=--no-cache; may be given several times"
    parser.add_argument("--option", action="append", default=[], metavar="OPTION", help=option_help)
    add_weights(parser)
    add_folders(parser)
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    from serving.images import Build, build_image, choose_base, find_engine, read_bases, stage_context

    base = choose_base(options.target, options.base, read_bases())
    engine = find_engine(options.engine)
    archives = [_find_archive(model, options) for model in options.models]
    build = Build(
        target=options.target,
        base=base,
        tag=options.tag or f"torchserve-neuron:{options.target}",
        packages=_list_packages(archives, options.package),
        revision=_revision(),
        options=tuple(options.option),
    )
    _warn_of_cuda(options)
    with stage_context(options.target, archives, options.wheels) as context:
        build_image(engine, build, context, report=report)
    print(build.tag)
    return 0


def _find_archive(model: str, options: argparse.Namespace) -> Path:
    if model.endswith(".mar"):
        return Path(model)
    folders = {"store": options.store, "build": options.build}
    return ensure_archive(model, options.target, **folders, weights=options.weights)


def _list_packages(archives: list[Path], asked: list[str]) -> tuple[str, ...]:
    """Return what the archives' records ask for, and what is asked for besides; raise where two versions meet."""
    from tracing.checking import read_archive_record

    needed = [each for archive in archives for each in read_archive_record(archive).requirements]
    found: dict[str, str] = {}
    for each in (*needed, *asked):
        name = each.partition("==")[0].lower().replace("_", "-")
        if found.setdefault(name, each) != each:
            raise KitError(f"both {found[name]} and {each} are asked for; put their models into images of their own")
    return tuple(found.values())


def _warn_of_cuda(options: argparse.Namespace) -> None:
    if options.target == "cpu" and not options.wheels and not os.environ.get("PIP_EXTRA_INDEX_URL"):
        if os.environ.get("PIP_INDEX_URL"):
            return
        report(
            "note: PIP_EXTRA_INDEX_URL is not set. torch's default build for Linux on x86 wants CUDA libraries, which "
            "the image lacks; set it to PyTorch's index of CPU builds, or give --wheels"
        )


def _revision() -> str:
    """Return the commit that the kit is at, or "unknown" outside of a clone."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
