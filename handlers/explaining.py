"""Why a model answered as it did: ``POST /explanations/<model>``, every item of every request."""

import hashlib
import json
import math
import time
from typing import Any, Callable, List, Mapping, Optional, Sequence

import numpy as np
import torch

from handlers.attributions import FORWARD_METHODS, METHODS, attribute
from handlers.batching import pad_batch
from handlers.errors import BadRequest, KitError, ModelError, NotOffered
from handlers.features import Explanation, Features, Game, Target, Wish
from handlers.handler import Handler, Sample, Tensors, read_count
from handlers.payloads import INSTANCES, LIST, TENSORS, Payload, shorten
from handlers.responses import JSON

DEFAULT_SECONDS = 5.0  # that a request may take, unless its client says so
_SAMPLES = {"shapley": 20, "kernel_shap": 512}  # orders of all features, coalitions
MOST_SAMPLES, MOST_STEPS, MOST_WINDOW = 20_000, 1_000, 64
_STEPS, _WINDOW = 50, 2


def explain_payload(worker: Any, payload: Payload, share: int = 1) -> Any:
    """Return the answer to one request for explanations, an ``Encoded`` picture, or the ``KitError`` in their place.

    ``worker`` is a ``handlers.worker.Worker``; ``share`` is how many such requests have to share the longest time that
    the handler allows, because they came in one batch.
    """
    try:
        handler: Handler = worker.handler
        began = time.monotonic()
        seconds = _read_seconds(handler, payload.parameters, share)
        method = _read_method(handler, payload.parameters)
        jobs = worker.preprocess(payload)
        if isinstance(jobs, KitError):
            return jobs
        if payload.accept != JSON and len(jobs) > 1:
            raise BadRequest(f"{payload.accept} holds one answer, the request has {len(jobs)} items; send one")
        samples = [job.sample for job in jobs]
        targets = handler.targets(payload, [worker.run_copies([sample.inputs]) for sample in samples])
        answers = []
        for position, (sample, target) in enumerate(zip(samples, targets)):
            # What one item leaves of its time is there for those after it.
            left = began + seconds - time.monotonic()
            deadline = time.monotonic() + left / (len(samples) - position)
            features = handler.features(sample, payload.parameters)
            wish = read_wish(method, payload.parameters, sample)
            explanation = explain(worker, sample, features, target, wish, deadline=deadline)
            answers.append(handler.present(explanation, features, payload.items[position], payload.accept))
        form, answers = handler.join_explanations(payload, answers)
        return _wrap(payload.request_id, form, answers, worker)
    except KitError as exc:
        return exc
    except Exception as exc:
        return ModelError(f"explaining failed on this request ({type(exc).__name__}: {shorten(str(exc))})")


def explain(
    worker: Any, sample: Sample, features: Features, target: Target, wish: Wish, *, deadline: float
) -> Explanation:
    """Return how much each feature of one item counts for the target; no batch begins after the monotonic deadline."""
    began = time.monotonic()
    batch = max(worker.batch_sizes)
    game = Game(features, sample.inputs, worker.run_copies, target.score, batch=batch, deadline=deadline)
    if not math.isfinite(game.score) or not math.isfinite(game.baseline_score):
        raise ModelError("the model gave a score that is not a number for this item")
    gradients = None
    if wish.method not in FORWARD_METHODS:
        gradients = find_gradients(worker, sample, features, target)
    values, errors, delta = attribute(game, wish, gradients)
    return Explanation(
        values=values,
        errors=errors,
        method=wish.method,
        target=target.name,
        score=game.score,
        baseline_score=game.baseline_score,
        evaluations=game.evaluations,
        seconds=time.monotonic() - began,
        complete=game.complete,
        delta=delta,
    )


def find_gradients(
    worker: Any, sample: Sample, features: Features, target: Target
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the score as a differentiable function of presence, float (N, features) in [0, 1].

    Raises ``NotOffered`` where the loaded module gives no gradients, which is found by asking it for one.
    """
    handler: Handler = worker.handler
    number = worker.find_bucket(sample.inputs)
    bucket = worker.buckets[number]
    if worker.variant.crops:
        raise _no_gradients(worker, "its outputs are cropped to the item")
    whole, nothing, owners = _collate_path(worker, sample, features, bucket)
    if not all(tensor.is_floating_point() for tensor in whole):
        raise _no_gradients(worker, "its inputs are whole numbers")

    def score(presence: torch.Tensor) -> torch.Tensor:
        size = min((each for each in bucket.runs if each >= len(presence)), default=max(bucket.runs))
        starts = range(0, len(presence), size)
        return torch.cat([_run_path(presence[start : start + size], size) for start in starts])

    def _run_path(presence: torch.Tensor, size: int) -> torch.Tensor:
        rows = torch.cat([presence, presence.new_ones(len(presence), 1)], dim=1)
        inputs = [
            start + rows[:, owner].reshape(-1, *end.shape[1:]).to(end.dtype) * (end - start)
            for start, end, owner in zip(nothing, whole, owners)
        ]
        raw = bucket.runs[size](*(pad_batch(tensor, size) for tensor in inputs))
        outputs = handler.activate(tuple(out[: len(presence)] for out in raw))
        return target.score(outputs)

    probe = torch.ones(1, len(features.names), requires_grad=True)
    with torch.enable_grad():
        try:
            found = score(probe)
            torch.autograd.grad(found.sum(), probe)
        except (RuntimeError, NotImplementedError) as exc:
            raise _no_gradients(worker, f"the compiled module gives none ({shorten(str(exc))})") from exc
    return score


def _collate_path(worker: Any, sample: Sample, features: Features, bucket: Any) -> Any:
    """Return both ends of the path as the model's inputs, (1, ...) each, and for each value the feature it belongs to.

    Which feature a value belongs to is found by leaving out one after the other: a handler's ``collate`` may turn,
    scale and pad the sample's values, one by one.
    """

    def collate(copies: Sequence[Any]) -> Tensors:
        varies = bool(worker.variant.modules[0].bucket)
        padded = [worker.handler.pad(copy, bucket.inputs) if varies else copy for copy in copies]
        tensors: Tensors = worker.handler.collate(padded)
        return tensors

    count = len(features.names)
    whole = collate([features.copy(sample.inputs, np.ones(count, bool))])
    nothing = collate([features.copy(sample.inputs, np.zeros(count, bool))])
    owners = [torch.full((tensor.numel(),), count) for tensor in whole]
    for feature in range(count):
        without = collate([features.copy(sample.inputs, np.arange(count) != feature)])
        for owner, end, tensor in zip(owners, whole, without):
            owner[(tensor != end).reshape(-1)] = feature
    return whole, nothing, owners


def _no_gradients(worker: Any, reason: str) -> NotOffered:
    return NotOffered(
        f"integrated_gradients needs gradients, which {worker.record.name} on {worker.variant.target} does not have: "
        f"{reason}; expected method: {', '.join(FORWARD_METHODS)}"
    )


def read_wish(method: str, parameters: Mapping[str, Any], sample: Sample) -> Wish:
    """Return how a client wants an item explained; its seed follows from the item, so that answers repeat."""
    return Wish(
        method=method,
        n_samples=read_count(parameters, "n_samples", _SAMPLES.get(method, 1), MOST_SAMPLES),
        n_steps=read_count(parameters, "n_steps", _STEPS, MOST_STEPS),
        window=read_count(parameters, "window", _WINDOW, MOST_WINDOW),
        seed=make_seed(sample.inputs),
    )


def make_seed(inputs: Sequence[Any]) -> int:
    """Return a number under 2**63 that follows from the values of an item."""
    digest = hashlib.sha256()
    for each in inputs:
        digest.update(np.ascontiguousarray(np.asarray(each)).tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _read_method(handler: Handler, parameters: Mapping[str, Any]) -> str:
    unknown = [name for name in parameters if name not in handler.explanation_parameters]
    if unknown:
        known = ", ".join(handler.explanation_parameters)
        raise BadRequest(f"an explanation has no parameter {shorten(', '.join(unknown))}; it takes: {known}")
    method = parameters.get("method", handler.explanation_method)
    if method not in METHODS:
        raise BadRequest(f"the method is {shorten(repr(method))}, expected one of {', '.join(METHODS)}")
    return str(method)


def _read_seconds(handler: Handler, parameters: Mapping[str, Any], share: int) -> float:
    """Return how many seconds a request may take, all its items together."""
    most = handler.explanation_limit_s
    found = parameters.get("budget_s", min(DEFAULT_SECONDS, most))
    try:
        seconds = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds <= most:
        raise BadRequest(f"budget_s is {shorten(repr(found))}, expected seconds over 0, at most {most:g}")
    return min(seconds, most / share)


def _wrap(request_id: Optional[str], form: str, answers: List[Any], worker: Any) -> Any:
    """Return the items' answers in the form in which their client asked."""
    if form == INSTANCES:
        return {"explanations": answers}
    if form == TENSORS:
        texts = [json.dumps(answer, ensure_ascii=False, allow_nan=False) for answer in answers]
        outputs = [{"name": "explanation", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]
        wrapped = {"model_name": worker.record.name, "model_version": worker.record.version, "outputs": outputs}
        return {**wrapped, "id": request_id} if request_id is not None else wrapped
    if form == LIST or len(answers) > 1:
        return answers
    return answers[0]
