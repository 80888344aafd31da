"""A worker that is ready: items to compiled batches and back, each request answered on its own merits."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from handlers import cores
from handlers.artifact import Module, Record, TensorSpec, Variant
from handlers.batching import Planner, choose_bucket, pad_batch
from handlers.errors import BadRequest, KitError, ModelError, TooLarge, name_cause
from handlers.handler import Handler, Sample, Tensors, as_sample
from handlers.metrics import MODEL, POSTPROCESS, PREPROCESS, Laps, Waste
from handlers.payloads import Payload, shorten
from handlers.responses import NPY, encode_npy

Run = Callable[..., Tensors]
_WHOLE = Payload([])  # of the jobs whose outputs are wanted, and no answer


@dataclass
class Bucket:
    """The modules of one compiled input shape."""

    inputs: Tuple[TensorSpec, ...]  # of its smallest batch; -1 for a dimension that takes any size
    runs: Dict[int, Run]  # compiled batch size -> the loaded module

    def __post_init__(self) -> None:
        self.planner = Planner(self.runs)


@dataclass
class Job:
    """One item on its way through the model."""

    sample: Sample
    payload: Payload  # of the request that holds it


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
    waste: Waste = field(default_factory=Waste)
    laps: Laps = field(default_factory=Laps)

    @property
    def batch_sizes(self) -> List[int]:
        """The compiled batch sizes, smallest first."""
        return sorted({size for bucket in self.buckets for size in bucket.runs})

    @property
    def bucket_sizes(self) -> List[Dict[str, int]]:
        """The sizes of the dimensions that vary, smallest bucket first; one empty element where none does."""
        smallest = min(self.batch_sizes)
        return [dict(module.bucket) for module in self.variant.modules if module.batch == smallest]

    def answer(self, payloads: Sequence[Payload]) -> List[Any]:
        """Return for each payload its answer, or the ``KitError`` that stands in its place.

        Items of all payloads share compiled batches. If such a batch fails, each payload is run again alone, so that
        one that the model cannot take fails alone.
        """
        jobs = [self.preprocess(payload) for payload in payloads]
        self.laps.end(PREPROCESS)
        good = [index for index, each in enumerate(jobs) if not isinstance(each, KitError)]
        results: List[Any] = list(jobs)
        try:
            answers = self._run([job for index in good for job in jobs[index]])
        except Exception:
            self.laps.end(MODEL)
            for index in good:
                results[index] = self._run_alone(jobs[index])
        else:
            for index in good:
                results[index], answers = answers[: len(jobs[index])], answers[len(jobs[index]) :]
        wrapped = [self._wrap(payload, result) for payload, result in zip(payloads, results)]
        self.laps.end(POSTPROCESS)
        return wrapped

    def preprocess(self, payload: Payload) -> Any:
        """Return a payload's items as jobs, or the ``KitError`` that says why they are none."""
        fault = self._find_form_fault(payload)
        if fault is not None:
            return fault
        jobs = []
        for position, item in enumerate(payload.items):
            try:
                jobs.append(Job(as_sample(self.handler.preprocess(item)), payload))
            except KitError as exc:
                if len(payload.items) > 1:
                    return type(exc)(f"item {position}: {exc}")
                return exc
            except Exception as exc:
                return _unexpected("preprocess", exc)
        return jobs

    def run_copies(self, copies: Sequence[Tuple[Any, ...]]) -> Tensors:
        """Return the activated outputs, a row each, of many variations of one sample's inputs."""
        rows = self._run([Job(Sample(tuple(copy)), _WHOLE) for copy in copies])
        for row in rows:
            if isinstance(row, KitError):
                raise row
        return tuple(torch.stack(column) for column in zip(*rows))

    def find_bucket(self, inputs: Sequence[Any]) -> Optional[int]:
        """Return the number of the smallest bucket that a sample's inputs fit into, or None."""
        if not self.variant.modules[0].bucket:
            return 0
        return choose_bucket(inputs, [bucket.inputs for bucket in self.buckets])

    def _find_form_fault(self, payload: Payload) -> Optional[KitError]:
        form = payload.parameters.get("form", "answer")
        if form in self.handler.forms:
            return None
        return BadRequest(f"the form is {shorten(str(form))!r}, expected one of {', '.join(self.handler.forms)}")

    def _run_alone(self, jobs: List[Job]) -> Any:
        try:
            return self._run(jobs)
        except KitError as exc:
            return exc
        except Exception as exc:
            return _unexpected("the model", exc)

    def _run(self, jobs: List[Job]) -> List[Any]:
        """Return the answers to preprocessed items in their order, a ``KitError`` in place of each that has none."""
        if not self.variant.modules[0].bucket:
            return self._run_bucket(self.buckets[0], jobs)
        answers: List[Any] = [None] * len(jobs)
        chosen = [self.find_bucket(job.sample.inputs) for job in jobs]
        for number, bucket in enumerate(self.buckets):
            picked = [index for index, each in enumerate(chosen) if each == number]
            for index, answer in zip(picked, self._run_bucket(bucket, [jobs[index] for index in picked])):
                answers[index] = answer
        for index, each in enumerate(chosen):
            if each is None:
                answers[index] = self._explain_no_bucket(jobs[index].sample.inputs)
        return answers

    def _run_bucket(self, bucket: Bucket, jobs: List[Job]) -> List[Any]:
        varies = bool(self.variant.modules[0].bucket)
        answers: List[Any] = []
        for start, stop, size in bucket.planner.plan(len(jobs)):
            batch = [job.sample.inputs for job in jobs[start:stop]]
            padded = [self.handler.pad(each, bucket.inputs) for each in batch] if varies else batch
            inputs = tuple(pad_batch(tensor, size) for tensor in self.handler.collate(padded))
            self._count_waste(inputs, batch if varies else None, stop - start, size)
            self.laps.end(PREPROCESS)
            raw = bucket.runs[size](*inputs)
            bucket.planner.observe(size, self.laps.end(MODEL))
            if size > stop - start:
                raw = tuple(out[: stop - start] for out in raw)
            rows = zip(*(out.unbind() for out in self.handler.activate(raw)))
            for row, (job, activated) in enumerate(zip(jobs[start:stop], rows)):
                answers.append(self._answer(job, raw, row, activated))
            self.laps.end(POSTPROCESS)
        return answers

    def _count_waste(self, inputs: Tensors, batch: Optional[Sequence[Sequence[Any]]], items: int, size: int) -> None:
        computed = sum(tensor.numel() for tensor in inputs)
        if batch is None:
            real = computed // size * items
        else:
            real = sum(int(np.prod(np.shape(each))) for sample in batch for each in sample)
        self.waste.count(computed=computed, real=real, items=items, size=size)

    def _explain_no_bucket(self, inputs: Sequence[Any]) -> KitError:
        found = ", ".join(f"{spec.name} {list(np.shape(each))}" for each, spec in zip(inputs, self.buckets[0].inputs))
        sizes = "; ".join(str(module.bucket) for module in self.variant.modules[-1:])
        return TooLarge(f"the item fits into no compiled shape: found {found}, the largest holds {sizes}")

    def _answer(self, job: Job, raw: Tensors, row: int, activated: Tensors) -> Any:
        """Return the answer to the item in a row of the model's outputs, and what ``activate`` made of that row."""
        form = job.payload.parameters.get("form", "answer")
        try:
            if self.variant.crops:
                activated = self._crop(job, tuple(out[row] for out in raw), activated)
            if job.payload is _WHOLE:
                return activated
            if form == "raw":
                own = tuple(out[row] for out in raw)
                return self._give_raw(job.payload, self._crop(job, own, own))
            if job.payload.accept == NPY:
                return self.handler.as_array(activated, job.sample.note)
            return self.handler.answer(activated, job.sample.note, job.payload.parameters)
        except KitError as exc:
            return exc
        except Exception as exc:
            return _unexpected("postprocess", exc)

    def _crop(self, job: Job, raw: Tensors, outputs: Tensors) -> Tensors:
        """Return outputs cut back to the sizes that follow from the item's own; those of another shape stay."""
        cropped = list(outputs)
        for crop in self.variant.crops:
            if crop.output < len(cropped) and outputs[crop.output].shape == raw[crop.output].shape:
                own = np.shape(job.sample.inputs[crop.input])[crop.input_dimension]
                size = -(-own * crop.numerator // crop.denominator)
                out = cropped[crop.output]
                cropped[crop.output] = out.narrow(crop.dimension, 0, min(size, out.shape[crop.dimension]))
        return tuple(cropped)

    def _give_raw(self, payload: Payload, raw: Tensors) -> Any:
        if payload.accept != NPY:
            return {name: out.tolist() for name, out in zip(self.variant.outputs, raw)}
        if len(raw) > 1:
            return BadRequest(f"the model has {len(raw)} raw outputs, npy holds one array; accept application/json")
        return raw[0].float().numpy() if raw[0].is_floating_point() else raw[0].numpy()

    def _wrap(self, payload: Payload, result: Any) -> Any:
        if isinstance(result, KitError):
            return result
        for answer in result:
            if isinstance(answer, KitError):
                return answer
        try:
            if payload.accept == NPY:
                return encode_npy(result)
            if payload.parameters.get("form") == "raw":
                return Handler.wrap(self.handler, payload, result, self.record.name, self.record.version)
            return self.handler.wrap(payload, result, self.record.name, self.record.version)
        except KitError as exc:
            return exc
        except Exception as exc:
            return _unexpected("wrap", exc)


def group_buckets(modules: Sequence[Module], runs: Sequence[Run]) -> List[Bucket]:
    """Return loaded modules by their bucket, in the order of the modules."""
    inputs: Dict[Any, Tuple[TensorSpec, ...]] = {}
    found: Dict[Any, Dict[int, Run]] = {}
    for module, run in zip(modules, runs):
        key = tuple(sorted(module.bucket.items()))
        inputs.setdefault(key, module.inputs)
        found.setdefault(key, {})[module.batch] = run
    return [Bucket(inputs[key], by_size) for key, by_size in found.items()]


def _unexpected(step: str, exc: BaseException) -> KitError:
    return ModelError(f"{step} failed on this request: {name_cause(exc)}")
