"""One variant, step by step: compiled for one target, verified, and certified under the chip's arithmetic."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers import targets
from handlers.artifact import Module, Variant
from handlers.batching import choose_bucket
from handlers.handler import Handler, Sample, Tensors
from handlers.worker import Bucket, group_buckets
from tracing import certifying, operators
from tracing.compiling import compile_modules, generate_inputs
from tracing.cropping import find_crops
from tracing.errors import PreflightError
from tracing.estimating import count_operations, count_parameters, estimate_copy_bytes, resolve_options
from tracing.preflight import run_preflight
from tracing.recipe import Recipe, Tolerances, plain, sorted_buckets, tensor_specs
from tracing.splitting import split_end
from tracing.traps import find_traps
from tracing.verification_host import emulated_instance, verification_host
from tracing.verifying import verify_model

Progress = Callable[[str], None]
# Random inputs for each bucket that the verification adds to the golden requests: fewer where one takes seconds. Each
# is run some ten times in all, so that this many operations of the largest bucket take minutes on one thread.
_MOST_GENERATED, _LEAST_GENERATED, _GENERATED_OPERATIONS = 8, 2, 5e10
_CPU_SHARE = 0.1  # of the operators may stay on the processor unless the recipe says otherwise: an embedding, say


@dataclass(frozen=True)
class Source:
    """What a variant is made from."""

    recipe: Recipe
    model: torch.nn.Module  # eager, in eval mode
    handler: Handler
    samples: Sequence[Sample]  # the preprocessed items of the golden requests
    handler_file: Path | None = None  # of the user's own handler


def build_variant(target: str, source: Source, folder: Path, *, cache: Path, progress: Progress) -> Variant:
    """Return the variant for ``target``, its files below ``folder``; raise the ``KitError`` of the step that failed."""
    items, real = collect_items(source)
    names = run_preflight(source.model, source.handler, _stack(real))
    progress(f"preflight passed on {len(source.samples)} golden items; outputs: {', '.join(names)}")
    crops = find_crops(source.model, source.recipe)
    if target == "cpu":
        variant = _build_cpu(source, items, names, folder, progress)
    else:
        variant = _build_chip(target, source, items, names, folder, cache=cache, progress=progress)
    return dataclasses.replace(variant, crops=crops)


def collect_items(source: Source) -> tuple[list[list[Tensors]], list[Tensors]]:
    """Return for each bucket the items to compare on, golden ones padded to it, then generated ones.

    The second value is the golden ones of the first bucket that has any.
    """
    recipe, buckets = source.recipe, sorted_buckets(source.recipe)
    specs = [tensor_specs(recipe.inputs, 1, bucket) for bucket in buckets]
    real: list[list[Tensors]] = [[] for _ in buckets]
    for sample in source.samples:
        # A handler may lay out a sample as it likes (collate sorts it out) unless dimensions vary.
        chosen = choose_bucket(sample.inputs, specs) if recipe.buckets else 0
        if chosen is None:
            shapes = ", ".join(str(list(np.shape(each))) for each in sample.inputs)
            raise PreflightError(f"preflight: a golden request of shape {shapes} fits into none of the buckets")
        padded = source.handler.pad(sample.inputs, specs[chosen]) if recipe.buckets else sample.inputs
        collated = source.handler.collate([padded])
        real[chosen].append(tuple(tensor[0] for tensor in collated))
    first = next(list(golden) for golden in real if golden)
    count = _count_generated(source)
    for number, bucket in enumerate(buckets):
        generated = generate_inputs(recipe.inputs, count, seed=1, bucket=bucket)
        real[number] += list(zip(*generated, strict=True))
    return real, first


def _count_generated(source: Source) -> int:
    try:
        operations = count_operations(source.recipe, source.model)
    except Exception:  # a model that does not run is for the preflight to explain
        return _MOST_GENERATED
    fitting = int(_GENERATED_OPERATIONS // operations) if operations else _MOST_GENERATED
    return min(max(fitting, _LEAST_GENERATED), _MOST_GENERATED)


def _build_cpu(
    source: Source, items: Sequence[Sequence[Tensors]], names: tuple[str, ...], folder: Path, progress: Progress
) -> Variant:
    recipe, backend = source.recipe, targets.get_target("cpu")
    options = dict(recipe.targets.get("cpu", {}))
    modules = compile_modules(
        source.model, target="cpu", recipe=recipe, options=options, folder=folder, progress=progress
    )
    buckets = _load_modules(backend, folder, modules, options)
    figures = _verify("cpu", source, buckets, items, names, recipe.tolerances, progress)
    return Variant(
        target="cpu",
        emulated=False,
        modules=modules,
        outputs=names,
        cores_per_worker=recipe.cores_per_worker,
        options=plain(options),
        versions=backend.versions(),
        parameters=count_parameters(source.model),
        verification=figures,
        golden_tolerance=float(recipe.tolerances.golden),
    )


def _build_chip(
    target: str,
    source: Source,
    items: Sequence[Sequence[Tensors]],
    names: tuple[str, ...],
    folder: Path,
    *,
    cache: Path,
    progress: Progress,
) -> Variant:
    recipe, model, backend = source.recipe, source.model, targets.get_target(target)
    options = resolve_options(target, recipe, model)
    worker_cores = backend.cores_per_worker(options, count_parameters(model), recipe.cores_per_worker)
    emulated = backend.is_emulated()
    _find_traps(target, source, options, items, worker_cores, progress)
    example = _stack(items[0][:1])
    body, end = split_end(model, recipe.keep_on_cpu, example) if recipe.keep_on_cpu else (model, None)
    for line in operators.report_operators(target, body, example):
        progress(f"{target}: {line}")
    certificate = certifying.certify(
        model,
        [item for bucket in items for item in bucket],
        family=target,
        compiler_args=backend.compiler_args(options, count_parameters(model)),
        keep_on_cpu=recipe.keep_on_cpu,
        tolerances=recipe.chip_tolerances,
        names=names,
        activate=source.handler.activate,
    )
    progress(f"certified under {target}'s arithmetic: {certificate.summary()}")
    with verification_host(backend, worker_cores, emulated=emulated):
        modules = compile_modules(
            body,
            target=target,
            recipe=recipe,
            options=options,
            folder=folder,
            progress=progress,
            end=end,
            cache=cache,
        )
        share = _judge_share(target, body, source, folder, modules, options, progress)
        runnable = emulated or backend.missing(False) is None
        figures: dict[str, float] = dict(certificate.figures())
        if runnable:
            buckets = _load_modules(backend, folder, modules, options)
            figures = _verify(target, source, buckets, items, names, recipe.chip_tolerances, progress)
        else:
            progress(f"{target}: no chip here to run the compiled modules on; verified by emulated arithmetic alone")
    return Variant(
        target=target,
        emulated=emulated,
        modules=modules,
        outputs=names,
        cores_per_worker=worker_cores,
        options=plain(options),
        versions=backend.versions(),
        parameters=count_parameters(model),
        verification=figures,
        golden_tolerance=float(recipe.chip_tolerances.golden),
        verified_on=target if runnable and not emulated else "emulator",
        certificate=certificate.as_json(),
        # A worker loads every module by itself, also where several batch sizes share a file.
        device_bytes=estimate_copy_bytes(target, count_parameters(model), options) * len(modules),
        cpu_share=round(share, 4),
    )


def _find_traps(
    target: str,
    source: Source,
    options: dict[str, Any],
    items: Sequence[Sequence[Tensors]],
    worker_cores: int,
    progress: Progress,
) -> None:
    available = len(targets.get_target(target).host_cores())
    faults = []
    if 0 < available < worker_cores:
        faults.append(
            f"a worker of this model takes {worker_cores} cores, this host has {available}; lower pipeline_cores or "
            "cores_per_worker, or choose a larger instance"
        )
    found = find_traps(
        source.model,
        _stack(items[0][:2]),
        target=target,
        options=options,
        batch_sizes=source.recipe.batch_sizes,
        keep_on_cpu=source.recipe.keep_on_cpu,
        buckets=len(items),
        instance=emulated_instance(),
        handler=source.handler_file,
    )
    for warning in found.warnings:
        progress(f"note: {warning}")
    faults += found.faults
    if faults:
        raise PreflightError(f"preflight for {target}: " + "; ".join(faults))


def _judge_share(
    target: str,
    body: torch.nn.Module,
    source: Source,
    folder: Path,
    modules: Sequence[Module],
    options: dict[str, Any],
    progress: Progress,
) -> float:
    compiled = targets.get_target(target).open_module(folder / modules[0].file)
    inputs = generate_inputs(source.recipe.inputs, 1, seed=0, bucket=modules[0].bucket)
    share, left = operators.measure_cpu_share(body, inputs, getattr(compiled, "body", compiled))
    operators.judge_cpu_share(share, left, float(options.get("max_cpu_share", _CPU_SHARE)), target)
    progress(f"{target}: {share:.1%} of the operators stay on the processor" + (f": {'; '.join(left)}" if left else ""))
    return share


def _load_modules(backend: Any, folder: Path, modules: Sequence[Module], options: dict[str, Any]) -> list[Bucket]:
    return group_buckets(modules, [backend.load(folder / each.file, each.inputs, options) for each in modules])


def _verify(
    target: str,
    source: Source,
    buckets: Sequence[Bucket],
    items: Sequence[Sequence[Tensors]],
    names: tuple[str, ...],
    tolerances: Tolerances,
    progress: Progress,
) -> dict[str, float]:
    worst: dict[str, float] = {}
    for bucket, compared in zip(buckets, items, strict=True):
        figures = verify_model(
            source.model,
            bucket.runs,
            compared,
            names=names,
            tolerances=tolerances,
            activate=source.handler.activate,
            **({} if target == "cpu" else {"is_tie": certifying.is_tie}),
        )
        for name, value in figures.items():
            worse = min if name in ("min_cosine", "top1_agreement") else max
            worst[name] = value if name not in worst else worse(worst[name], value)
        worst["compared"] = float(sum(map(len, items)))
    progress(
        f"verified {target} on {sum(map(len, items))} items: largest error {worst['max_abs_error']:.1e}, "
        f"cosine {worst['min_cosine']:.6f}, top-1 {worst['top1_agreement']:.3f}"
    )
    return worst


def _stack(items: Sequence[Tensors]) -> Tensors:
    return tuple(torch.stack(column) for column in zip(*items, strict=True))
