"""The handler for sentence encoders: a vector for each text; of a pair of texts, how much they mean the same."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import torch

from handlers import texts
from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError, NotAcceptable
from handlers.features import Explanation, Features, Target
from handlers.handler import Handler, Sample, Tensors
from handlers.payloads import Payload, check_count
from handlers.responses import NPY
from handlers.token_features import present_tokens, token_features

_PAIRS = "pairs:"  # begins the form of a request that holds pairs; the form of a request of single items follows
_DECIMALS = 7  # of a number in an answer: what float32 holds of a number below 1


@dataclass(frozen=True)
class EmbedderSettings:
    """The settings of a text embedder."""

    truncate: bool = False  # whether a text over the largest compiled shape is cut, and said to be, or refused
    paraphrase_threshold: float = 0.7  # least similarity, -1 to 1, of two texts that are called paraphrases
    most_characters: int = 100_000  # of one text; tokenizing takes time that grows with them

    def faults(self) -> List[str]:
        """Return what is wrong with the settings, a sentence each."""
        threshold = self.paraphrase_threshold
        is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        checks = [
            (isinstance(self.truncate, bool), "truncate: true or false"),
            (is_number and -1 <= threshold <= 1, "paraphrase_threshold: a number of -1 to 1"),
            (
                isinstance(self.most_characters, int) and self.most_characters > 0,
                "most_characters: a whole number over 0",
            ),
        ]
        return [f"settings: expected {what}" for right, what in checks if not right]


class TextEmbedder(Handler):
    """A text in, its embedding out: ``{"embedding": [...]}``; a pair in, ``{"similarity": s, "paraphrase": true}`` out.

    The model takes ``input_ids``, ``attention_mask`` and, if it likes, ``token_type_ids``, int64 of shape (batch,
    sequence); its first output is float32 of shape (batch, size). The archive holds a ``tokenizer.json``.
    """

    requirements = ("tokenizers",)
    explanation_method = "ablation"

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        super().__init__(settings, buckets, folder)
        self.embedder = EmbedderSettings(**settings)
        self._names = [spec.name for spec in self.inputs]
        self._tokenizer = texts.TextTokenizer(
            folder / texts.TOKENIZER,
            longest=max(specs[0].shape[1] for specs in self.buckets),
            truncate=self.embedder.truncate,
            most_characters=self.embedder.most_characters,
        )

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings and inputs, a sentence each."""
        known = EmbedderSettings.__dataclass_fields__
        faults = texts.find_input_faults(inputs, ("input_ids", "attention_mask"))
        faults += [
            f"settings: unknown {name!r}; expected one of {', '.join(known)}" for name in settings if name not in known
        ]
        return faults + EmbedderSettings(**{name: settings[name] for name in settings if name in known}).faults()

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return the faults in the model's raw outputs, a sentence each."""
        if outputs[0].dim() != 2:
            return [f"the model's first output has shape {list(outputs[0].shape)}, expected (batch, size of a vector)"]
        return []

    def read(self, row: Mapping[str, Any], content_types: Mapping[str, str]) -> Payload:
        """Return the texts that a request holds; of pairs, the two texts of each one after the other."""
        payload = texts.read_texts(row, content_types, self.parameters)
        pairs = [item for item in payload.items if isinstance(item, texts.Pair)]
        if not pairs:
            return payload
        if len(pairs) < len(payload.items):
            raise BadRequest("the request holds texts and pairs; send a request of each kind")
        flat = [text for pair in pairs for text in pair]
        check_count(len(flat), "the request")
        return payload._replace(items=flat, form=_PAIRS + payload.form)

    def preprocess(self, item: Any) -> Sample:
        """Return a text's token ids and attention mask, int64 of shape (tokens,); the note is its ``texts.Tokens``."""
        tokens = self._tokenizer.encode(item)
        return Sample(texts.token_inputs(tokens, self._names), tokens)

    def answer(self, outputs: Tensors, note: Any, parameters: Mapping[str, Any]) -> Any:
        """Return ``{"embedding": [...]}``, and ``"truncated": true`` only where the text was cut."""
        answer = self.postprocess(outputs)
        return {**answer, "truncated": True} if note is not None and note.cut else answer

    def postprocess(self, outputs: Tensors) -> Dict[str, Any]:
        """Return the embedding of one text, to 7 decimals."""
        values: List[float] = outputs[0].tolist()
        if not all(math.isfinite(value) for value in values):
            raise ModelError("the model gave an embedding with values that are not numbers for this text")
        return {"embedding": [round(value, _DECIMALS) for value in values]}

    def wrap(self, payload: Payload, answers: Sequence[Any], model: str, version: str) -> Any:
        """Return the answers in the form in which the client asked, one for each pair where it sent pairs."""
        if not payload.form.startswith(_PAIRS):
            return super().wrap(payload, answers, model, version)
        if payload.accept == NPY:
            raise NotAcceptable("the answer to a pair is no array; accept application/json")
        verdicts = [self._compare(*answers[at : at + 2]) for at in range(0, len(answers), 2)]
        form = payload.form[len(_PAIRS) :]
        return super().wrap(payload._replace(form=form), verdicts, model, version)

    def _compare(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the cosine of two embeddings, and whether it reaches the threshold."""
        one, other = np.array(first["embedding"]), np.array(second["embedding"])
        lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
        if lengths == 0:
            raise ModelError("the model gave an embedding of length 0, which has no similarity to any other")
        similarity = min(1.0, max(-1.0, float(one @ other) / lengths))
        verdict = {
            "similarity": round(similarity, _DECIMALS),
            "paraphrase": similarity >= self.embedder.paraphrase_threshold,
        }
        return {**verdict, "truncated": True} if "truncated" in first or "truncated" in second else verdict

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return embeddings as one KServe v2 tensor of shape (N, size); says beside it which texts were cut."""
        vectors = [answer["embedding"] for answer in answers]
        shape, data = [len(vectors), len(vectors[0])], [value for vector in vectors for value in vector]
        tensors = [{"name": "embedding", "datatype": "FP32", "shape": shape, "data": data}]
        if any("truncated" in answer for answer in answers):
            cut = ["truncated" in answer for answer in answers]
            tensors.append({"name": "truncated", "datatype": "BOOL", "shape": [len(cut)], "data": cut})
        return tensors

    def features(self, sample: Sample, parameters: Mapping[str, Any]) -> Features:
        """Return the text's tokens."""
        return token_features(sample.note, self._names)

    def targets(self, payload: Payload, outputs: Sequence[Tensors]) -> List[Target]:
        """Return the similarity of each text to the other of its pair, or of a text by itself to itself when whole."""
        if "target" in payload.parameters:
            raise BadRequest("the model of this request has no targets to choose from; leave target out")
        # The texts of a pair stand one after the other: 0 and 1, 2 and 3.
        step, name = (1, "similarity to the other text") if self._holds_pairs(payload) else (0, "similarity to itself")
        return [Target(name, similarity_to(outputs[number ^ step][0][0])) for number in range(len(outputs))]

    def present(self, explanation: Explanation, features: Features, item: Any, accept: str) -> Any:
        """Return the tokens with their weights."""
        return present_tokens(explanation, features)

    def join_explanations(self, payload: Payload, answers: List[Any]) -> Tuple[str, List[Any]]:
        """Return the two texts' explanations of each pair as ``{"seq_0", "seq_1"}``."""
        if not self._holds_pairs(payload):
            return super().join_explanations(payload, answers)
        pairs = [dict(zip(texts.PAIR_FIELDS, answers[at : at + 2])) for at in range(0, len(answers), 2)]
        return payload.form[len(_PAIRS) :], pairs

    def _holds_pairs(self, payload: Payload) -> bool:
        return payload.form.startswith(_PAIRS)


def similarity_to(vector: torch.Tensor) -> Callable[[Tensors], torch.Tensor]:
    """Return the cosine of embeddings (N, size), the first of the outputs, with a vector (size,): float64 (N,)."""
    wanted = vector.double() / vector.double().norm()
    return lambda outputs: torch.nn.functional.normalize(outputs[0].double(), dim=1) @ wanted
