"""The handler for text classification: the most probable labels of a text, or of a pair of texts."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from handlers import texts
from handlers.artifact import TensorSpec
from handlers.errors import ModelError
from handlers.features import Explanation, Features, Target, choose_label
from handlers.handler import Handler, Sample, Tensors, read_count
from handlers.payloads import Payload
from handlers.token_features import present_tokens, token_features

_ACTIVATIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True)
class ClassifierSettings:
    """The settings of a text classifier."""

    labels: Optional[Tuple[str, ...]] = None  # one for each output, in order; None: those of the archive's config.json
    activation: str = "softmax"  # from the model's outputs to probabilities; "none" if it gives them itself
    top_k: int = 5  # how many labels an answer holds
    truncate: bool = False  # whether a text over the largest compiled shape is cut, and said to be, or refused
    most_characters: int = 100_000  # of one text or pair; tokenizing takes time that grows with them

    def faults(self) -> List[str]:
        """Return what is wrong with the settings, a sentence each."""
        labels = self.labels
        checks = [
            (labels is None or (len(labels) > 0 and all(isinstance(each, str) for each in labels)), "labels: texts"),
            (labels is None or len(set(labels)) == len(labels), "labels: no label twice"),
            (self.activation in _ACTIVATIONS, f"activation: one of {', '.join(_ACTIVATIONS)}"),
            (isinstance(self.top_k, int) and self.top_k > 0, "top_k: a whole number over 0"),
            (isinstance(self.truncate, bool), "truncate: true or false"),
            (
                isinstance(self.most_characters, int) and self.most_characters > 0,
                "most_characters: a whole number over 0",
            ),
        ]
        return [f"settings: expected {what}" for right, what in checks if not right]


class TextClassifier(Handler):
    """A text or a pair of texts in, the most probable labels out: ``{label: probability}``, largest first.

    The model takes ``input_ids``, ``attention_mask`` and, if it likes, ``token_type_ids``, int64 of shape (batch,
    sequence); its first output is float32 of shape (batch, labels). The archive holds a ``tokenizer.json``.
    """

    requirements = ("tokenizers",)
    explanation_method = "ablation"
    parameters = (*Handler.parameters, "top_k")

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        super().__init__(settings, buckets, folder)
        self.classifier = _as_settings(settings)
        self._labels = self.classifier.labels or texts.read_labels(folder)
        self._names = [spec.name for spec in self.inputs]
        self._tokenizer = texts.TextTokenizer(
            folder / texts.TOKENIZER,
            longest=max(specs[0].shape[1] for specs in self.buckets),
            truncate=self.classifier.truncate,
            most_characters=self.classifier.most_characters,
        )

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings and inputs, a sentence each."""
        known = ClassifierSettings.__dataclass_fields__
        faults = texts.find_input_faults(inputs, ("input_ids", "attention_mask"))
        faults += [
            f"settings: unknown {name!r}; expected one of {', '.join(known)}" for name in settings if name not in known
        ]
        if not isinstance(settings.get("labels"), (list, tuple, type(None))):
            return [*faults, "settings: expected labels: a list of texts, one for each output of the model"]
        return faults + _as_settings({name: settings[name] for name in settings if name in known}).faults()

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return the faults in the model's raw outputs, a sentence each."""
        shape = list(outputs[0].shape)
        if len(shape) != 2 or (self._labels is not None and shape[1] != len(self._labels)):
            count = len(self._labels) if self._labels is not None else "labels"
            return [f"the model's first output has shape {shape}, expected (batch, {count}): one for each label"]
        return []

    def read(self, row: Mapping[str, Any], content_types: Mapping[str, str]) -> Payload:
        """Return the texts and pairs that a request holds."""
        return texts.read_texts(row, content_types, self.parameters)

    def preprocess(self, item: Any) -> Sample:
        """Return the tokens of a text or a pair, int64 of shape (tokens,); the note is its ``texts.Tokens``."""
        tokens = self._tokenizer.encode(item)
        return Sample(texts.token_inputs(tokens, self._names), tokens)

    def activate(self, outputs: Tensors) -> Tensors:
        """Return probabilities, float32 of shape (N, labels)."""
        scores = outputs[0].to(torch.float32)
        if self.classifier.activation == "softmax":
            scores = torch.softmax(scores, dim=1)
        elif self.classifier.activation == "sigmoid":
            scores = torch.sigmoid(scores)
        return (scores,)

    def answer(self, outputs: Tensors, note: Any, parameters: Mapping[str, Any]) -> Any:
        """Return labels with probabilities, as many as the client's ``top_k`` or the settings' say.

        Of a text that was cut: ``{"labels": {label: probability}, "truncated": true}``.
        """
        count = read_count(parameters, "top_k", self.classifier.top_k, len(outputs[0]))
        ranked = self._rank(outputs, count)
        return {"labels": ranked, "truncated": True} if note is not None and note.cut else ranked

    def postprocess(self, outputs: Tensors) -> Dict[str, float]:
        """Return the ``top_k`` labels with their probabilities, largest first; equal ones in the labels' order."""
        return self._rank(outputs, self.classifier.top_k)

    def label(self, index: int) -> str:
        """Return the label of an output; one without a name has Hugging Face's, ``LABEL_0`` and so on."""
        return self._labels[index] if self._labels is not None else f"LABEL_{index}"

    def _rank(self, outputs: Tensors, count: int) -> Dict[str, float]:
        values: List[float] = outputs[0].tolist()
        if not all(math.isfinite(value) for value in values):
            raise ModelError("the model gave a probability that is not a number for this text")
        best = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
        return {self.label(index): values[index] for index in best}

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return answers as two KServe v2 tensors of shape (N, top_k): labels and probabilities."""
        ranked = [answer["labels"] if answer.get("truncated") is True else answer for answer in answers]
        labels = [label for answer in ranked for label in answer]
        shape = [len(ranked), len(labels) // len(ranked)]
        values = [value for answer in ranked for value in answer.values()]
        tensors = [
            {"name": "labels", "datatype": "BYTES", "shape": shape, "data": labels},
            {"name": "probabilities", "datatype": "FP32", "shape": shape, "data": values},
        ]
        if len(ranked) and any(each is not answer for each, answer in zip(ranked, answers)):
            cut = [each is not answer for each, answer in zip(ranked, answers)]
            tensors.append({"name": "truncated", "datatype": "BOOL", "shape": [len(cut)], "data": cut})
        return tensors

    def features(self, sample: Sample, parameters: Mapping[str, Any]) -> Features:
        """Return the text's tokens."""
        return token_features(sample.note, self._names)

    def targets(self, payload: Payload, outputs: Sequence[Tensors]) -> List[Target]:
        """Return the label that the client names (``target``), or each text's most probable one."""
        wanted = payload.parameters.get("target")
        return [choose_label(each, [self.label(n) for n in range(each[0].shape[1])], wanted) for each in outputs]

    def present(self, explanation: Explanation, features: Features, item: Any, accept: str) -> Any:
        """Return the tokens with their weights."""
        return present_tokens(explanation, features)


def _as_settings(settings: Dict[str, Any]) -> ClassifierSettings:
    labels = settings.get("labels")
    return ClassifierSettings(**{**settings, "labels": tuple(labels) if labels is not None else None})
