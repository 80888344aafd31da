"""The handler for image classification, with TorchServe's conventions: ``{label: probability}``, largest first."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import torch

from handlers import images
from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError
from handlers.features import Explanation, Features, Target, choose_label
from handlers.grid import name_cells, number_cells, present_grid
from handlers.handler import Handler, Sample, Tensors, read_count
from handlers.heat_map import draw_heat_map
from handlers.payloads import Encoded, Payload
from handlers.responses import JSON, PNG

_ACTIVATIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True)
class ImageSettings:
    """The settings of an image classifier."""

    labels: Tuple[str, ...]  # one for each output of the model, in order
    mean: Tuple[float, ...] = (0.0, 0.0, 0.0)  # subtracted from each of R, G, B on the scale 0 to 1
    std: Tuple[float, ...] = (1.0, 1.0, 1.0)  # then divided by
    activation: str = "softmax"  # from the model's outputs to probabilities; "none" if it gives them itself
    top_k: int = 5  # how many labels an answer holds
    crop_share: float = 1.0  # side of the centre crop over the largest that fits; 0.875 for 224 of 256
    most_bytes: int = 8 * 1024 * 1024  # of one picture file
    most_pixels: int = 40_000_000  # of one picture; decoding takes 3 to 4 bytes of memory for each

    def faults(self) -> List[str]:
        """Return what is wrong with the settings, a sentence each."""
        checks = [
            (len(self.labels) > 0 and all(isinstance(each, str) for each in self.labels), "labels: a list of texts"),
            (len(set(self.labels)) == len(self.labels), f"labels: no label twice, {_twice(self.labels)} is"),
            (_are_numbers(self.mean, 3), "mean: three numbers on the scale 0 to 1"),
            (_are_numbers(self.std, 3) and all(each > 0 for each in self.std), "std: three numbers over 0"),
            (self.activation in _ACTIVATIONS, f"activation: one of {', '.join(_ACTIVATIONS)}"),
            (isinstance(self.top_k, int) and self.top_k > 0, "top_k: a whole number over 0"),
            (_are_numbers((self.crop_share,), 1) and 0 < self.crop_share <= 1, "crop_share: over 0, at most 1"),
            (isinstance(self.most_bytes, int) and self.most_bytes > 0, "most_bytes: a whole number over 0"),
            (isinstance(self.most_pixels, int) and self.most_pixels > 0, "most_pixels: a whole number over 0"),
        ]
        return [f"settings: expected {what}" for right, what in checks if not right]


class ImageClassifier(Handler):
    """A picture in, the most probable labels out."""

    parameters = (*Handler.parameters, "top_k", "grid")
    explanation_parameters = (*Handler.explanation_parameters, "grid")
    explanation_types = (JSON, PNG)
    explanation_method = "occlusion"

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        super().__init__(settings, buckets, folder)
        self.image = ImageSettings(**{**settings, "labels": tuple(settings["labels"])})
        self._size = (self.inputs[0].shape[2], self.inputs[0].shape[3])
        self._dtype: torch.dtype = getattr(torch, self.inputs[0].dtype)
        # (x / 255 - mean) / std as one multiplication and one addition, for each value of a row of pixels: over the
        # three channels alone torch's innermost loop would have three steps.
        std = torch.tensor(self.image.std, dtype=torch.float32).repeat(self._size[1])
        mean = torch.tensor(self.image.mean, dtype=torch.float32).repeat(self._size[1])
        self._scale, self._shift = 1 / (255 * std), -mean / std

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings and inputs, a sentence each."""
        faults = []
        shapes = [spec.shape for spec in inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
            faults.append(f"inputs: expected one of shape (batch, 3, height, width), found {shapes}")
        known = ImageSettings.__dataclass_fields__
        faults += [
            f"settings: unknown {name!r}; expected one of {', '.join(known)}" for name in settings if name not in known
        ]
        if not isinstance(settings.get("labels"), (list, tuple)):
            return [*faults, "settings: expected labels: a list of texts, one for each output of the model"]
        kept = {name: value for name, value in settings.items() if name in known}
        return faults + ImageSettings(**{**kept, "labels": tuple(settings["labels"])}).faults()

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return the faults in the model's raw outputs, a sentence each."""
        shape, labels = list(outputs[0].shape), len(self.image.labels)
        if len(shape) != 2 or shape[1] != labels:
            return [f"the model's first output has shape {shape}, expected (batch, {labels}): one for each label"]
        scores = outputs[0].float()
        in_range = bool(((scores >= 0) & (scores <= 1)).all())
        if self.image.activation == "softmax" and in_range and bool(((scores.sum(dim=1) - 1).abs() < 1e-3).all()):
            return ["the model's outputs are probabilities already; say activation='none' in the settings"]
        if self.image.activation == "none" and not in_range:
            return ["the model's outputs are no probabilities; say activation='softmax' or 'sigmoid' in the settings"]
        return []

    def preprocess(self, item: Any) -> Tuple[np.ndarray]:
        """Return a picture file's pixels, uint8 of shape (height, width, 3)."""
        if not isinstance(item, bytes):
            raise BadRequest(f"found {type(item).__name__}, expected the bytes of a picture file")
        limits = {"most_bytes": self.image.most_bytes, "most_pixels": self.image.most_pixels}
        return (images.read_pixels(item, self._size, crop_share=self.image.crop_share, **limits),)

    def collate(self, samples: Sequence[Tuple[Any, ...]]) -> Tensors:
        """Return pictures as one normalised tensor of shape (N, 3, height, width), channels last in memory."""
        # Joined by height, and looked at as rows: np.stack takes over twice as long for eight small pictures.
        pixels = torch.from_numpy(np.concatenate([sample[0] for sample in samples]))
        rows = pixels.reshape(-1, 3 * self._size[1]).to(torch.float32).mul_(self._scale).add_(self._shift)
        normalised = rows.reshape(len(samples), *self._size, 3).permute(0, 3, 1, 2)
        return (normalised if self._dtype == torch.float32 else normalised.to(self._dtype),)

    def activate(self, outputs: Tensors) -> Tensors:
        """Return probabilities, float32 of shape (N, labels)."""
        scores = outputs[0].to(torch.float32)
        if self.image.activation == "softmax":
            scores = torch.softmax(scores, dim=1)
        elif self.image.activation == "sigmoid":
            scores = torch.sigmoid(scores)
        return (scores,)

    def answer(self, outputs: Tensors, note: Any, parameters: Mapping[str, Any]) -> Any:
        """Return the answer with as many labels as the client asks for (``top_k``), or the settings' number."""
        if "top_k" in parameters:
            count = read_count(parameters, "top_k", self.image.top_k, len(self.image.labels))
            return self._rank(outputs, count)
        return self.postprocess(outputs)

    def postprocess(self, outputs: Tensors) -> Dict[str, float]:
        """Return the ``top_k`` labels with their probabilities, largest first; equal ones in the labels' order."""
        return self._rank(outputs, self.image.top_k)

    def _rank(self, outputs: Tensors, count: int) -> Dict[str, float]:
        values: List[float] = outputs[0].tolist()
        if not math.isfinite(sum(values)):
            raise ModelError("the model gave a probability that is not a number for this picture")
        labels = self.image.labels
        return {labels[index]: values[index] for index in find_largest(values, count)}

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return answers as two KServe v2 tensors of shape (N, top_k): labels and probabilities."""
        labels = [label for answer in answers for label in answer]
        shape = [len(answers), len(labels) // len(answers)]
        values = [value for answer in answers for value in answer.values()]
        return [
            {"name": "labels", "datatype": "BYTES", "shape": shape, "data": labels},
            {"name": "probabilities", "datatype": "FP32", "shape": shape, "data": values},
        ]

    def features(self, sample: Sample, parameters: Mapping[str, Any]) -> Features:
        """Return the cells of a grid over the picture, by default 8 x 8 (``grid``); left out, they are the mean colour.

        The mean is the settings', at which the model's input is zero; mid-grey where they have none.
        """
        cells, side = number_cells(self._size, parameters)
        mean = self.image.mean if any(self.image.mean) else (0.5, 0.5, 0.5)
        colour = np.round(np.array(mean) * 255).clip(0, 255)
        return Features((cells[:, :, None],), (colour,), name_cells(side), (side, side))

    def targets(self, payload: Payload, outputs: Sequence[Tensors]) -> List[Target]:
        """Return the label that the client names (``target``), or each picture's most probable one."""
        return [choose_label(each, self.image.labels, payload.parameters.get("target")) for each in outputs]

    def present(self, explanation: Explanation, features: Features, item: Any, accept: str) -> Any:
        """Return the weights as rows of the ``grid``, with ``errors`` or None; or a heat map over the picture."""
        if accept == PNG:
            image = images.decode_image(item, most_bytes=self.image.most_bytes, most_pixels=self.image.most_pixels)
            box = images.find_crop(image.size, self._size, crop_share=self.image.crop_share)
            return Encoded(PNG, draw_heat_map(image, explanation.values.reshape(features.grid), box))
        return present_grid(explanation, features)


def find_largest(values: Sequence[float], count: int) -> List[int]:
    """Return the places of the ``count`` largest values, largest first; of equal ones the first.

    >>> find_largest([0.1, 0.4, 0.1, 0.4], 3)
    [1, 3, 0]
    """
    places: Sequence[int] = range(len(values))
    if len(values) > 8 * count:  # a thousand classes: most are out of the question
        array = np.array(values)
        places = np.flatnonzero(array >= np.partition(array, -count)[-count]).tolist()
    return sorted(places, key=values.__getitem__, reverse=True)[:count]


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and all(isinstance(each, (int, float)) and math.isfinite(each) for each in values)
    )


def _twice(labels: Sequence[str]) -> str:
    return ", ".join(sorted({repr(label) for label in labels if labels.count(label) > 1})) or "none"
