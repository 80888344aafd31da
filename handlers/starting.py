"""A worker's start: variant chosen, cores leased, modules loaded, warmed up and checked against golden requests."""

import importlib
import json
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, List, Tuple

import torch

from handlers import artifact, cores, targets
from handlers.artifact import Golden, Module, Record, Variant
from handlers.comparing import find_difference
from handlers.errors import CannotServe, GoldenMismatch, KitError, ModelUnusable, NoTarget, RequestError, name_cause
from handlers.handler import Handler
from handlers.payloads import Payload
from handlers.worker import Run, Worker, group_buckets


def start_worker(folder: Path) -> Worker:
    """Return a worker for the unpacked archive in ``folder``; raise the ``CannotServe`` that says why there is none.

    The files must have been verified before (``handlers.integrity``).
    """
    began = time.monotonic()
    record = artifact.read_record(folder)
    variant, passed_over = choose_variant(record)
    target = targets.get_target(variant.target)
    lease = cores.take_lease(
        target.core_kind(),
        variant.cores_per_worker,
        host_cores=target.host_cores(),
        places=target.places(),
        label=f"{record.name} {record.version}",
    )
    try:
        target.prepare(lease.cores)
        ensure_requirements(record)
        handler = make_handler(record, variant, folder)
        loading = time.monotonic()
        runs = [_load(target, folder, module, variant) for module in variant.modules]
        warming = time.monotonic()
        for run, module in zip(runs, variant.modules):
            _warm_up(run, module)
        worker = Worker(record, variant, handler, group_buckets(variant.modules, runs), lease, passed_over)
        replaying = time.monotonic()
        replay_golden(worker, folder)
        steps = (began, loading, warming, replaying, time.monotonic())
        names = ("prepare", "load", "warm_up", "golden")
        worker.seconds = {name: round(steps[n + 1] - steps[n], 3) for n, name in enumerate(names)}
        return worker
    except BaseException:
        lease.release()
        raise


def choose_variant(record: Record) -> Tuple[Variant, List[str]]:
    """Return the first variant that can run on this host, and why those before it cannot; raise ``NoTarget``."""
    reasons: List[str] = []
    for variant in record.variants:
        try:
            reason = targets.get_target(variant.target).missing(variant.emulated)
        except NoTarget as exc:
            reason = str(exc)
        if reason is None:
            return variant, reasons
        reasons.append(f"{variant.target}: {reason}")
    raise NoTarget(f"no variant of {record.name} can run on this host: " + "; ".join(reasons))


def ensure_requirements(record: Record) -> None:
    """Raise ``ModelUnusable`` that names the packages which the handler needs and this Python lacks."""
    missing = [each for each in record.requirements if _is_missing(each)]
    if missing:
        raise ModelUnusable(
            f"{record.name} needs {', '.join(missing)}, which this Python lacks; install it where TorchServe runs: "
            f"{sys.executable} -m pip install {' '.join(map(repr, missing))}"
        )


def _is_missing(requirement: str) -> bool:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    return False


def make_handler(record: Record, variant: Variant, folder: Path) -> Handler:
    """Return the handler that the record names, with its settings; ``folder`` holds the archive's files."""
    module, _, name = record.handler.path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
        shapes = {tuple(sorted(module.bucket.items())): module.inputs for module in reversed(variant.modules)}
        handler: Handler = kind(dict(record.handler.settings), list(reversed(list(shapes.values()))), folder)
        return handler
    except Exception as exc:
        raise ModelUnusable(f"the handler {record.handler.path} cannot be made: {name_cause(exc)}") from exc


def replay_golden(worker: Worker, folder: Path) -> None:
    """Raise ``GoldenMismatch`` unless every golden request gets its expected answer, alone and in mixed batches."""
    payloads = [_read_golden(worker.handler, folder, golden) for golden in worker.record.golden]
    if not payloads:
        return
    for size in worker.batch_sizes:
        # Every request in every batch size, with other neighbours in each; alone where the size is 1.
        for start in range(0, len(payloads), size):
            picked = [(start + step) % len(payloads) for step in range(size)]
            answers = worker.answer([payloads[index] for index in picked])
            for index, answer in zip(picked, answers):
                _compare_golden(worker, index, size, answer)


def _read_golden(handler: Handler, folder: Path, golden: Golden) -> Payload:
    try:
        return handler.read({"body": (folder / golden.file).read_bytes()}, {"body": golden.content_type})
    except (OSError, RequestError) as exc:
        raise GoldenMismatch(f"golden request {golden.name} cannot be read from {golden.file}: {exc}") from exc


def _compare_golden(worker: Worker, index: int, size: int, answer: Any) -> None:
    golden = worker.record.golden[index]
    where = f"golden request {golden.name} in a batch of {size}"
    if isinstance(answer, KitError):
        raise GoldenMismatch(f"{where} was refused: {answer}") from answer
    fault = find_difference(golden.answer, json.loads(json.dumps(answer)), worker.variant.golden_tolerance)
    if fault:
        raise GoldenMismatch(
            f"{where}: {fault}. The model in this archive does not answer as it did when it was verified; "
            "trace and pack it again"
        )


def _load(target: Any, folder: Path, module: Module, variant: Variant) -> Run:
    try:
        run: Run = target.load(folder / module.file, module.inputs, variant.options)
        return run
    except CannotServe:
        raise
    except Exception as exc:
        raise ModelUnusable(f"{module.file} does not load as TorchScript: {name_cause(exc)}") from exc


def _warm_up(run: Run, module: Module) -> None:
    """Run a module until its graph is optimised: the first run records shapes, the second compiles for them."""
    shapes = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in module.inputs)
    try:
        inputs = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in module.inputs]
        for _ in range(3):
            outputs = run(*inputs)
    except Exception as exc:
        raise ModelUnusable(f"{module.file} does not run at its compiled shape ({shapes}): {name_cause(exc)}") from exc
    for output in outputs:
        if output.dim() == 0 or output.shape[0] != module.batch:
            raise ModelUnusable(
                f"{module.file} gives an output of shape {list(output.shape)} for a batch of {module.batch}; "
                "expected the batch as first dimension"
            )
