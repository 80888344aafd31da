"""What a handler is: the part of serving that knows what a request means. One task each, one item at a time."""

import json
from typing import Any, Dict, List, Sequence, Tuple

import torch

from handlers.artifact import TensorSpec

Tensors = Tuple[torch.Tensor, ...]


class Handler:
    """Turns items into model inputs, and model outputs into answers.

    A subclass says how, for one item, in ``preprocess`` and ``postprocess``; the service does the batching, the padding
    and the errors. Raise a ``RequestError`` (``handlers.errors``) for an item that cannot be answered: that request
    alone fails. A subclass may be as small as::

        class Shouting(ImageClassifier):
            def postprocess(self, outputs):
                return {label.upper(): p for label, p in super().postprocess(outputs).items()}
    """

    def __init__(self, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> None:
        """Keep the recipe's ``settings`` and the ``inputs`` of the compiled module (batch dimension first)."""
        self.settings = settings
        self.inputs = tuple(inputs)

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings, a sentence each; called before anything is built."""
        return []

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return the faults in the model's raw outputs for a batch, a sentence each; called when it is built."""
        return []

    def preprocess(self, item: Any) -> Tuple[Any, ...]:
        """Return one item as one array or tensor for each input, without the batch dimension.

        Where the recipe has buckets, with the input's dimensions in their order, so that it can be padded.
        """
        raise NotImplementedError(f"{type(self).__name__} must define preprocess(item)")

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
        """Return the answer, anything JSON holds, to one item from its outputs, without the batch dimension."""
        raise NotImplementedError(f"{type(self).__name__} must define postprocess(outputs)")

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return answers as the ``outputs`` of a KServe v2 response; by default a JSON text for each item."""
        texts = [json.dumps(answer, ensure_ascii=False, allow_nan=False) for answer in answers]
        return [{"name": "answer", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]


def as_tuple(outputs: Any) -> Tensors:
    """Return what a model returned (a tensor, several, or a dictionary of them) as a tuple of tensors, in its order."""
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    return tuple(outputs.values() if isinstance(outputs, dict) else outputs)
