"""What a handler is: the part of serving that knows what a request means. One task each, one item at a time."""

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import torch

from handlers.artifact import TensorSpec
from handlers.batching import pad_sample
from handlers.errors import BadRequest, NotOffered
from handlers.features import Explanation, Features, Target
from handlers.payloads import INSTANCES, LIST, TENSORS, Payload, read_payload

Tensors = Tuple[torch.Tensor, ...]


class Sample(NamedTuple):
    """One item, preprocessed."""

    inputs: Tuple[Any, ...]  # one array or tensor for each input of the model, without the batch dimension
    note: Any = None  # what the answer has to know of the item: the picture's size, whether a text was cut


class Handler:
    """Turns items into model inputs, and model outputs into answers.

    A subclass says how, for one item, in ``preprocess`` and ``postprocess``; the service does the batching, the padding
    and the errors. Raise a ``RequestError`` (``handlers.errors``) for an item that cannot be answered: that request
    alone fails. A subclass may be as small as::

        class Shouting(ImageClassifier):
            def postprocess(self, outputs):
                return {label.upper(): p for label, p in super().postprocess(outputs).items()}
    """

    requirements: Tuple[str, ...] = ()  # PyPI packages that it imports beyond torch, numpy and pillow
    forms: Tuple[str, ...] = ("answer", "raw")  # of an answer; "raw": the model's own outputs
    explanation_parameters: Tuple[str, ...] = ("method", "target", "budget_s", "n_samples", "n_steps", "window")
    parameters: Tuple[str, ...] = ("form", *explanation_parameters)  # names of what a client may set
    explanation_types: Tuple[str, ...] = ("application/json",)  # of content that an explanation can have
    explanation_method = "shapley"  # where the client names none
    explanation_limit_s = 30.0  # the longest time in seconds that a client may ask for

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        """Keep the recipe's ``settings``, the inputs of each compiled shape, and where the archive's extra files lie.

        ``buckets`` are the inputs of the compiled modules, batch dimension first: one element for each bucket, smallest
        first, and one where nothing varies.
        """
        self.settings = settings
        self.buckets = tuple(tuple(specs) for specs in buckets)
        self.inputs = self.buckets[0]
        self.folder = folder

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings, a sentence each; called before anything is built.

        ``inputs`` have -1 for dimensions that vary.
        """
        return []

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return the faults in the model's raw outputs for a batch, a sentence each; called when it is built."""
        return []

    def read(self, row: Mapping[str, Any], content_types: Mapping[str, str]) -> Payload:
        """Return the items that one request holds; by default files, in any form that ``handlers.payloads`` knows."""
        return read_payload(row, content_types, self.parameters)

    def preprocess(self, item: Any) -> Tuple[Any, ...]:
        """Return one item as one array or tensor for each input, without the batch dimension, or as a ``Sample``.

        Where the recipe has buckets, with the input's dimensions in their order, so that it can be padded.
        """
        raise NotImplementedError(f"{type(self).__name__} must define preprocess(item)")

    def pad(self, inputs: Sequence[Any], specs: Sequence[TensorSpec]) -> Tuple[Any, ...]:
        """Return a sample's arrays brought to a bucket's shape; by default by zeros at the end of each dimension.

        An input that holds ones where the item has values, such as an attention mask, so marks the padding.
        """
        return pad_sample(inputs, specs)

    def collate(self, samples: Sequence[Tuple[Any, ...]]) -> Tensors:
        """Return the preprocessed items of a batch as one tensor for each input, of the input's dtype."""
        columns = zip(*samples)
        return tuple(
            torch.stack([torch.as_tensor(each) for each in column]).to(getattr(torch, spec.dtype))
            for column, spec in zip(columns, self.inputs)
        )

    def activate(self, outputs: Tensors) -> Tensors:
        """Return the model's outputs for a whole batch, made ready for ``postprocess``; by default as they are."""
        return outputs

    def postprocess(self, outputs: Tensors) -> Any:
        """Return the answer, anything JSON holds, to one item from its outputs, without the batch dimension.

        Dimensions of an output that follow a varying dimension of an input are cropped back to the item's own size.
        """
        raise NotImplementedError(f"{type(self).__name__} must define postprocess(outputs)")

    def answer(self, outputs: Tensors, note: Any, parameters: Mapping[str, Any]) -> Any:
        """Return the answer to one item; override it where the sample's note or the client's parameters matter."""
        return self.postprocess(outputs)

    def as_array(self, outputs: Tensors, note: Any) -> np.ndarray:
        """Return the answer to one item as an array, for a client that asks for npy; by default the first output."""
        array: np.ndarray = outputs[0].float().numpy() if outputs[0].is_floating_point() else outputs[0].numpy()
        return array

    def wrap(self, payload: Payload, answers: Sequence[Any], model: str, version: str) -> Any:
        """Return the answers to a request's items in the form in which its client asked."""
        if payload.form == LIST:
            return list(answers)
        if payload.form == INSTANCES:
            return {"predictions": list(answers)}
        if payload.form == TENSORS:
            wrapped = {"model_name": model, "model_version": version, "outputs": self.as_tensors(answers)}
            return {**wrapped, "id": payload.request_id} if payload.request_id is not None else wrapped
        return answers[0] if len(answers) == 1 else list(answers)

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return answers as the ``outputs`` of a KServe v2 response; by default a JSON text for each item."""
        texts = [json.dumps(answer, ensure_ascii=False, allow_nan=False) for answer in answers]
        return [{"name": "answer", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]

    def features(self, sample: Sample, parameters: Mapping[str, Any]) -> Features:
        """Return what of an item can be left out, for explanations; by default they are not offered."""
        raise NotOffered(f"{type(self).__name__} does not explain its answers; it would have to define features(...)")

    def targets(self, payload: Payload, outputs: Sequence[Tensors]) -> List[Target]:
        """Return what is explained of each item, from the activated outputs, (1, ...) each, of all of a request's.

        ``payload.parameters["target"]`` is the client's wish; raise ``BadRequest`` where there is no such target.
        """
        raise NotOffered(f"{type(self).__name__} does not explain its answers; it would have to define targets(...)")

    def present(self, explanation: Explanation, features: Features, item: Any, accept: str) -> Any:
        """Return the answer to one item: what JSON holds, or ``Encoded`` where the client accepts another type."""
        weights = [{"name": name, **each} for name, each in zip(features.names, explanation.weights())]
        return {**explanation.describe(), "features": weights}

    def join_explanations(self, payload: Payload, answers: List[Any]) -> Tuple[str, List[Any]]:
        """Return the form of the answer and what it holds, where items of a request belong together."""
        return payload.form, answers


def as_sample(preprocessed: Any) -> Sample:
    """Return what ``preprocess`` gave as a ``Sample``."""
    return preprocessed if isinstance(preprocessed, Sample) else Sample(tuple(preprocessed))


def as_tuple(outputs: Any) -> Tensors:
    """Return what a model returned (a tensor, several, or a dictionary of them) as a tuple of tensors, in its order."""
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    return tuple(outputs.values() if isinstance(outputs, dict) else outputs)


def read_count(parameters: Mapping[str, Any], name: str, default: int, most: int) -> int:
    """Return a client's parameter as a whole number of 1 to ``most``; raise ``BadRequest`` where it is none."""
    if name not in parameters:
        return default
    found = parameters[name]
    try:
        number = int(str(found))
    except ValueError:
        number = 0
    if isinstance(found, bool) or not 1 <= number <= most:
        raise BadRequest(f"the parameter {name} is {str(found)[:40]!r}, expected a whole number of 1 to {most}")
    return number
