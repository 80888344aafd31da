"""A worker made ready: variant chosen, cores leased, modules loaded, warmed up and checked against golden requests."""

import importlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch

from handlers import artifact, cores, targets
from handlers.artifact import Golden, Module, Record, TensorSpec, Variant
from handlers.batching import choose_bucket, pad_batch, pad_sample, plan_batches
from handlers.comparing import find_difference
from handlers.errors import (
    CannotServe,
    GoldenMismatch,
    KitError,
    ModelError,
    ModelUnusable,
    NoTarget,
    RequestError,
    TooLarge,
)
from handlers.handler import Handler, Tensors
from handlers.payloads import INSTANCES, TENSORS, Payload, read_payload

Run = Callable[..., Tensors]


@dataclass
class Bucket:
    """The modules of one compiled input shape."""

    inputs: Tuple[TensorSpec, ...]  # of its smallest batch; -1 for a dimension that takes any size
    runs: Dict[int, Run]  # compiled batch size -> the loaded module


@dataclass
class Worker:
    """All that answering takes, and the figures of getting there."""

    record: Record
    variant: Variant
    handler: Handler
    buckets: List[Bucket]  # smallest first
    lease: cores.Lease
    passed_over: List[str]  # why variants before this one were not taken
    seconds: Dict[str, float] = field(default_factory=dict)  # how long each step of the start took

    @property
    def batch_sizes(self) -> List[int]:
        """The compiled batch sizes, smallest first."""
        return sorted({size for bucket in self.buckets for size in bucket.runs})

    def answer(self, payloads: Sequence[Payload]) -> List[Any]:
        """Return for each payload its answer, or the ``KitError`` that stands in its place.

        Items of all payloads share compiled batches. If such a batch fails, each payload is run again alone, so that
        one that the model cannot take fails alone.
        """
        samples = [self._preprocess(payload) for payload in payloads]
        good = [index for index, each in enumerate(samples) if not isinstance(each, KitError)]
        results: List[Any] = list(samples)
        try:
            answers = self._run([sample for index in good for sample in samples[index]])
        except Exception:
            for index in good:
                results[index] = self._run_alone(samples[index])
        else:
            for index in good:
                results[index], answers = answers[: len(samples[index])], answers[len(samples[index]) :]
        return [self._wrap(payload, result) for payload, result in zip(payloads, results)]

    def _preprocess(self, payload: Payload) -> Any:
        samples = []
        for position, item in enumerate(payload.items):
            try:
                samples.append(self.handler.preprocess(item))
            except KitError as exc:
                if len(payload.items) > 1:
                    return type(exc)(f"item {position}: {exc}")
                return exc
            except Exception as exc:
                return _unexpected("preprocess", exc)
        return samples

    def _run_alone(self, samples: List[Any]) -> Any:
        try:
            return self._run(samples)
        except KitError as exc:
            return exc
        except Exception as exc:
            return _unexpected("the model", exc)

    def _run(self, samples: List[Any]) -> List[Any]:
        """Return the answers to preprocessed items in their order, a ``KitError`` in place of each that has none."""
        if len(self.buckets) == 1 and not self.variant.modules[0].bucket:
            return self._run_bucket(self.buckets[0], samples)
        answers: List[Any] = [None] * len(samples)
        chosen = [choose_bucket(sample, [bucket.inputs for bucket in self.buckets]) for sample in samples]
        for number, bucket in enumerate(self.buckets):
            picked = [index for index, each in enumerate(chosen) if each == number]
            padded = [pad_sample(samples[index], bucket.inputs) for index in picked]
            for index, answer in zip(picked, self._run_bucket(bucket, padded)):
                answers[index] = answer
        for index, each in enumerate(chosen):
            if each is None:
                answers[index] = self._explain_no_bucket(samples[index])
        return answers

    def _run_bucket(self, bucket: Bucket, samples: List[Any]) -> List[Any]:
        answers: List[Any] = []
        for start, stop, size in plan_batches(len(samples), sorted(bucket.runs)):
            inputs = tuple(pad_batch(tensor, size) for tensor in self.handler.collate(samples[start:stop]))
            outputs = self.handler.activate(tuple(out[: stop - start] for out in bucket.runs[size](*inputs)))
            answers += [self._postprocess(tuple(out[row] for out in outputs)) for row in range(stop - start)]
        return answers

    def _explain_no_bucket(self, sample: Sequence[Any]) -> KitError:
        found = ", ".join(f"{spec.name} {list(np.shape(each))}" for each, spec in zip(sample, self.buckets[0].inputs))
        sizes = "; ".join(str(module.bucket) for module in self.variant.modules[-1:])
        return TooLarge(f"the item fits into no compiled shape: found {found}, the largest holds {sizes}")

    def _postprocess(self, outputs: Tensors) -> Any:
        try:
            return self.handler.postprocess(outputs)
        except KitError as exc:
            return exc
        except Exception as exc:
            return _unexpected("postprocess", exc)

    def _wrap(self, payload: Payload, result: Any) -> Any:
        if isinstance(result, KitError):
            return result
        for answer in result:
            if isinstance(answer, KitError):
                return answer
        if payload.form == INSTANCES:
            return {"predictions": result}
        if payload.form == TENSORS:
            outputs = self.handler.as_tensors(result)
            wrapped = {"model_name": self.record.name, "model_version": self.record.version, "outputs": outputs}
            return {**wrapped, "id": payload.request_id} if payload.request_id is not None else wrapped
        return result[0]


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
        handler = make_handler(record, variant)
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


def group_buckets(modules: Sequence[Module], runs: Sequence[Run]) -> List[Bucket]:
    """Return loaded modules by their bucket, in the order of the modules."""
    found: Dict[Any, Bucket] = {}
    for module, run in zip(modules, runs):
        key = tuple(sorted(module.bucket.items()))
        found.setdefault(key, Bucket(module.inputs, {})).runs[module.batch] = run
    return list(found.values())


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


def make_handler(record: Record, variant: Variant) -> Handler:
    """Return the handler that the record names, with its settings."""
    module, _, name = record.handler.path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
        handler: Handler = kind(dict(record.handler.settings), variant.modules[0].inputs)
        return handler
    except Exception as exc:
        raise ModelUnusable(f"the handler {record.handler.path} cannot be made: {_name(exc)}") from exc


def replay_golden(worker: Worker, folder: Path) -> None:
    """Raise ``GoldenMismatch`` unless every golden request gets its expected answer, alone and in mixed batches."""
    payloads = [_read_golden(folder, golden) for golden in worker.record.golden]
    if not payloads:
        return
    for size in worker.batch_sizes:
        # Every request in every batch size, with other neighbours in each; alone where the size is 1.
        for start in range(0, len(payloads), size):
            picked = [(start + step) % len(payloads) for step in range(size)]
            answers = worker.answer([payloads[index] for index in picked])
            for index, answer in zip(picked, answers):
                _compare_golden(worker, index, size, answer)


def _read_golden(folder: Path, golden: Golden) -> Payload:
    try:
        return read_payload({"body": (folder / golden.file).read_bytes()}, {"body": golden.content_type})
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
        raise ModelUnusable(f"{module.file} does not load as TorchScript: {_name(exc)}") from exc


def _warm_up(run: Run, module: Module) -> None:
    """Run a module until its graph is optimised: the first run records shapes, the second compiles for them."""
    shapes = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in module.inputs)
    try:
        inputs = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in module.inputs]
        for _ in range(3):
            outputs = run(*inputs)
    except Exception as exc:
        raise ModelUnusable(f"{module.file} does not run at its compiled shape ({shapes}): {_name(exc)}") from exc
    for output in outputs:
        if output.dim() == 0 or output.shape[0] != module.batch:
            raise ModelUnusable(
                f"{module.file} gives an output of shape {list(output.shape)} for a batch of {module.batch}; "
                "expected the batch as first dimension"
            )


def _unexpected(step: str, exc: BaseException) -> KitError:
    return ModelError(f"{step} failed on this request: {_name(exc)}")


def _name(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[-1].strip() if lines else ''}"[:400]
