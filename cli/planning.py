"""The command ``plan``: what fits on an instance, from archives or, before anything is built, from recipes."""

import argparse
import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.building import add_folders, report
from handlers.artifact import Record, Variant
from handlers.errors import KitError
from handlers.neuron import generation_of

if TYPE_CHECKING:
    from serving.planning import ModelNeed, Plan

_Subparsers = Any  # argparse's own type for this is private
_PORT, _PORTS_APART = 8080, 100  # of the first server, and to the next


@dataclass(frozen=True)
class _Model:
    """A model as the command line names it."""

    need: "ModelNeed"
    serve: str  # the words of `make serve` that choose it and its target


def register(subparsers: _Subparsers) -> None:
    """Add the command of this module."""
    text = "print which models, workers and shapes fit on an instance"
    parser = subparsers.add_parser("plan", help=text, description=text)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="recipes, or .mar files")
    parser.add_argument("--instance", required=True, help="such as inf1.6xlarge")
    parser.add_argument("--target", help="inf1 or inf2 (default: what the instance has)")
    parser.add_argument(
        "--workers",
        action="append",
        default=[],
        metavar="MODEL=N",
        help="workers of one model, or of several with blanks or commas between (default: what fits)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_folders(parser)
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from serving.instances import find_instance
    from serving.plan_report import format_plan
    from serving.planning import plan_instance

    instance = find_instance(options.instance)
    target = _choose_target(instance.name, options.target)
    asked = _read_workers(options.workers)
    models = [_read_model(model, target, options.store) for model in options.models]
    unknown = sorted(set(asked) - {model.need.name for model in models})
    if unknown:
        raise KitError(f"--workers names {', '.join(unknown)}, which is none of the models")
    needs = [dataclasses.replace(model.need, workers=asked.get(model.need.name, 0)) for model in models]
    plan = plan_instance(needs, instance)
    commands = _list_commands(plan, {model.need.name: model.serve for model in models})
    if options.json:
        print(json.dumps({**dataclasses.asdict(plan), "commands": commands}, indent=2))
    else:
        print(format_plan(plan, commands))
    return 0


def _choose_target(instance: str, asked: str | None) -> str:
    target = generation_of(instance)
    if target is None:
        raise KitError(f"{instance} runs none of the kit's targets; take an inf1, inf2 or trn1 instance")
    if asked not in (None, target):
        raise KitError(f"{instance} runs {target}, not {asked}; leave --target out, or take another instance")
    return target


def _read_workers(texts: list[str]) -> dict[str, int]:
    found = {}
    for text in " ".join(texts).replace(",", " ").split():
        name, _, number = text.partition("=")
        if not (number.isascii() and number.isdigit()) or int(number) < 1:
            raise KitError(f"--workers {text!r}, expected MODEL=N with N over 0")
        found[name] = int(number)
    return found


def _list_commands(plan: "Plan", words: dict[str, str]) -> list[str]:
    """Return what starts the models on the cores of the plan."""
    commands = []
    for number, each in enumerate(plan.assignments):
        port = f" PORT={_PORT + _PORTS_APART * number}" if number else ""
        commands.append(f"make serve {words[each.need.name]} WORKERS={len(each.workers)}{port}")
    return commands


def _read_model(model: str, target: str, store: Path) -> _Model:
    from tracing.checking import read_archive_record
    from tracing.loading import load_recipe

    if model.endswith(".mar"):
        return _model_of_archive(model, read_archive_record(Path(model)), target)
    archive = store / f"{load_recipe(model, checked=False).recipe.name}.mar"
    if archive.exists():
        record = read_archive_record(archive)
        if any(variant.target == target for variant in record.variants):
            _report_age(model, archive, record)
            return _model_of_archive(model, record, target)
    report(f"{model}: there is no archive for {target} in {store}; estimated from the recipe")
    return _model_of_recipe(model, target)


def _report_age(model: str, archive: Path, record: Record) -> None:
    from tracing.building import is_up_to_date

    # Without its variants: whether the frameworks that compiled them are on this machine is no matter here.
    if not is_up_to_date(dataclasses.replace(record, variants=()), model, ()):
        report(
            f"note: {archive} was built from an older recipe or kit, and is planned as it is; make mar builds it again"
        )


def _model_of_archive(model: str, record: Record, target: str) -> _Model:
    variants = [variant for variant in record.variants if variant.target == target]
    if not variants:
        there = ", ".join(variant.target for variant in record.variants)
        raise KitError(f"{record.name} has no variant for {target}, only for {there}; build it with TARGET={target}")
    words = f"MODEL={shlex.quote(model)}"
    if not model.endswith(".mar"):
        words += f" TARGET={','.join(variant.target for variant in record.variants)}"
    return _Model(_need_of_variant(record.name, variants[0]), words)


def _need_of_variant(name: str, variant: Variant) -> "ModelNeed":
    from serving.planning import ModelNeed, resident_bytes
    from tracing.estimating import estimate_copy_bytes

    buckets = dict.fromkeys(json.dumps(module.bucket) for module in variant.modules if module.bucket)
    copy_bytes = estimate_copy_bytes(variant.target, variant.parameters, variant.options)
    parallel = int(variant.options.get("data_parallel", 1))
    return ModelNeed(
        name=name,
        target=variant.target,
        cores_per_worker=variant.cores_per_worker,
        device_bytes=resident_bytes(copy_bytes, len(variant.modules), parallel),
        parameters=variant.parameters,
        batch_sizes=tuple(sorted({module.batch for module in variant.modules})),
        buckets=tuple(buckets),
        weight_bytes=_weight_bytes(variant.target, variant.options),
        origin="archive, EMULATED" if variant.emulated else "archive",
    )


def _model_of_recipe(model: str, target: str) -> _Model:
    from handlers import targets
    from serving.planning import ModelNeed, resident_bytes
    from tracing.estimating import count_operations, count_parameters, estimate_copy_bytes, resolve_options
    from tracing.loading import build_model, importing_from, load_recipe, with_any_weights
    from tracing.recipe import sorted_buckets

    loaded = with_any_weights(load_recipe(model))
    recipe = loaded.recipe
    with importing_from(loaded.folder):
        built = build_model(loaded)
        operations = count_operations(recipe, built)
    options, parameters = resolve_options(target, recipe, built), count_parameters(built)
    buckets = tuple(json.dumps(bucket) for bucket in sorted_buckets(recipe) if bucket)
    copy_bytes = estimate_copy_bytes(target, parameters, options)
    modules = len(recipe.batch_sizes) * max(1, len(buckets))
    need = ModelNeed(
        name=recipe.name,
        target=target,
        cores_per_worker=targets.get_target(target).cores_per_worker(options, parameters, recipe.cores_per_worker),
        device_bytes=resident_bytes(copy_bytes, modules, int(options["data_parallel"])),
        parameters=parameters,
        batch_sizes=tuple(sorted(recipe.batch_sizes)),
        buckets=buckets,
        weight_bytes=_weight_bytes(target, options),
        operations=operations,
        origin="estimate",
    )
    given = " WEIGHTS=FILE" if loaded.has_random_weights else ""
    return _Model(need, f"MODEL={shlex.quote(model)}{given} TARGET={target}")


def _weight_bytes(target: str, options: dict[str, Any]) -> int:
    from tracing.estimating import estimate_copy_bytes

    return estimate_copy_bytes(target, 1, {**options, "pipeline_cores": 1})
