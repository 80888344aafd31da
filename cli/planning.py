"""The command ``plan``: what fits on an instance, from archives or, before anything is built, from recipes."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from cli.building import add_folders, report
from handlers.artifact import Record
from handlers.errors import KitError
from handlers.neuron import generation_of

_Subparsers = Any  # argparse's own type for this is private


def register(subparsers: _Subparsers) -> None:
    """Add the command of this module."""
    text = "print which models, workers and shapes fit on an instance"
    parser = subparsers.add_parser("plan", help=text, description=text)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="recipes, or .mar files")
    parser.add_argument("--instance", required=True, help="such as inf1.6xlarge")
    parser.add_argument(
        "--workers", action="append", default=[], metavar="MODEL=N", help="workers of one model (default: what fits)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_folders(parser)
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from serving.instances import find_instance
    from serving.planning import as_table, plan_instance

    instance = find_instance(options.instance)
    target = generation_of(instance.name)
    if target is None:
        raise KitError(f"{instance.name} runs none of the kit's targets; take an inf1, inf2 or trn1 instance")
    asked = _read_workers(options.workers)
    needs = [_read_need(model, target, options.store) for model in options.models]
    unknown = sorted(set(asked) - {need.name for need in needs})
    if unknown:
        raise KitError(f"--workers names {', '.join(unknown)}, which is none of the models")
    needs = [dataclasses.replace(need, workers=asked.get(need.name, 0)) for need in needs]
    plan = plan_instance(needs, instance)
    print(json.dumps(dataclasses.asdict(plan), indent=2) if options.json else as_table(plan))
    return 0


def _read_workers(texts: list[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdigit() or int(number) < 1:
            raise KitError(f"--workers {text!r}, expected MODEL=N with N over 0")
        found[name] = int(number)
    return found


def _read_need(model: str, target: str, store: Path) -> Any:
    """Return what a model needs. Any: a ``ModelNeed``, whose module is imported late."""
    from tracing.checking import read_archive_record
    from tracing.loading import load_recipe

    if model.endswith(".mar"):
        return _need_of_archive(read_archive_record(Path(model)), target)
    archive = store / f"{load_recipe(model, checked=False).recipe.name}.mar"
    if archive.exists():
        record = read_archive_record(archive)
        if any(variant.target == target for variant in record.variants):
            return _need_of_archive(record, target)
    report(f"{model}: there is no archive for {target} in {store}; estimated from the recipe")
    return _need_of_recipe(model, target)


def _need_of_archive(record: Record, target: str) -> Any:
    from serving.planning import ModelNeed

    variants = [variant for variant in record.variants if variant.target == target]
    if not variants:
        there = ", ".join(variant.target for variant in record.variants)
        raise KitError(f"{record.name} has no variant for {target}, only for {there}; build it with TARGET={target}")
    (variant,) = variants
    buckets = dict.fromkeys(json.dumps(module.bucket) for module in variant.modules if module.bucket)
    return ModelNeed(
        name=record.name,
        target=target,
        cores_per_worker=variant.cores_per_worker,
        device_bytes=variant.device_bytes,
        parameters=variant.parameters,
        batch_sizes=tuple(sorted({module.batch for module in variant.modules})),
        buckets=tuple(buckets),
    )


def _need_of_recipe(model: str, target: str) -> Any:
    from handlers import targets
    from serving.planning import ModelNeed
    from tracing.loading import build_model, importing_from, load_recipe
    from tracing.recipe import sorted_buckets
    from tracing.variants import count_operations, count_parameters, estimate_copy_bytes, resolve_options

    loaded = load_recipe(model)
    recipe = loaded.recipe
    with importing_from(loaded.folder):
        built = build_model(loaded)
        operations = count_operations(recipe, built)
    options, parameters = resolve_options(target, recipe, built), count_parameters(built)
    modules = len(recipe.batch_sizes) * max(1, len(recipe.buckets))
    return ModelNeed(
        name=recipe.name,
        target=target,
        cores_per_worker=targets.get_target(target).cores_per_worker(options, parameters, recipe.cores_per_worker),
        device_bytes=estimate_copy_bytes(target, parameters, options) * modules,
        parameters=parameters,
        batch_sizes=tuple(sorted(recipe.batch_sizes)),
        buckets=tuple(json.dumps(bucket) for bucket in sorted_buckets(recipe) if bucket),
        operations=operations,
        origin="estimate",
    )
