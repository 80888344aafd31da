"""The handler for finding text in pictures with CRAFT (Baek et al. 2019): a rotated box around each word."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
from PIL import Image

from handlers import images, polygons
from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError
from handlers.features import Explanation, Features, Target
from handlers.grid import name_cells, number_cells, present_grid
from handlers.handler import Handler, Sample, Tensors
from handlers.heat_map import draw_heat_map
from handlers.payloads import Encoded, Payload
from handlers.responses import JSON, PNG

_TARGET = "text"  # of explanations
_GRID = 32  # heights and widths that the network takes are multiples of this


@dataclass(frozen=True)
class DetectorSettings:
    """The settings of a text detector; the defaults are those of the published CRAFT."""

    mean: Tuple[float, ...] = (0.485, 0.456, 0.406)  # subtracted from each of R, G, B on the scale 0 to 1
    std: Tuple[float, ...] = (0.229, 0.224, 0.225)  # then divided by
    text_threshold: float = 0.7  # of the region map: a word has a pixel over it
    low_text: float = 0.4  # of the region map: pixels over it belong to characters
    link_threshold: float = 0.4  # of the affinity map: pixels over it join characters
    smallest_area: int = 10  # of a word, in pixels of the maps, which have half the network's resolution
    most_boxes: int = 500  # in one answer, the best scores first
    magnification: float = 1.0  # most that a picture is enlarged, where the largest compiled shape has room
    most_bytes: int = 8 * 1024 * 1024  # of one picture file
    most_pixels: int = 40_000_000  # of one picture; decoding takes 3 to 4 bytes of memory for each

    def faults(self) -> List[str]:
        """Return what is wrong with the settings, a sentence each."""
        checks = [
            (_are_numbers(self.mean), "mean: three numbers on the scale 0 to 1"),
            (_are_numbers(self.std) and all(each > 0 for each in self.std), "std: three numbers over 0"),
            (_is_number(self.link_threshold) and self.link_threshold > 0, "link_threshold: a number over 0"),
            (_is_number(self.low_text) and self.low_text > 0, "low_text: a number over 0"),
            (
                _is_number(self.text_threshold) and _is_number(self.low_text) and self.text_threshold >= self.low_text,
                "text_threshold: a number, at least low_text",
            ),
            (_is_number(self.magnification) and self.magnification > 0, "magnification: a number over 0"),
            *((_is_count(getattr(self, name)), f"{name}: a whole number over 0") for name in _COUNTS),
        ]
        return [f"settings: expected {what}" for right, what in checks if not right]


_COUNTS = ("smallest_area", "most_boxes", "most_bytes", "most_pixels")


class Placement(NamedTuple):
    """How a picture was brought to the network's size."""

    width: int  # of the picture as it was sent, upright
    height: int
    scaled_width: int  # of the part of the network's input that shows it
    scaled_height: int


class TextDetector(Handler):
    """A picture in, the corners of each word's box out."""

    parameters = (*Handler.parameters, "grid")
    explanation_parameters = (*Handler.explanation_parameters, "grid")
    explanation_types = (JSON, PNG)
    explanation_method = "occlusion"

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        super().__init__(settings, buckets, folder)
        self.detector = _as_settings(settings)
        self._sizes = [(specs[0].shape[2], specs[0].shape[3]) for specs in self.buckets]
        if any(side % _GRID for size in self._sizes for side in size):
            raise ValueError(f"buckets of {self._sizes} (height, width): expected multiples of {_GRID}")
        # (x / 255 - mean) / std as one multiplication and one addition for each channel.
        std, mean = np.array(self.detector.std, np.float32), np.array(self.detector.mean, np.float32)
        self._scale, self._shift = 1 / (255 * std), -mean / std

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings and inputs, a sentence each."""
        faults = []
        shapes = [spec.shape for spec in inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or inputs[0].dtype != "float32":
            faults.append(f"inputs: expected one of float32 of shape (batch, 3, height, width), found {shapes}")
        elif any(side != -1 and side % _GRID for side in shapes[0][2:]):
            faults.append(f"inputs: expected heights and widths that are multiples of {_GRID}, found {shapes}")
        known = DetectorSettings.__dataclass_fields__
        faults += [
            f"settings: unknown {name!r}; expected one of {', '.join(known)}" for name in settings if name not in known
        ]
        return faults + _as_settings({name: value for name, value in settings.items() if name in known}).faults()

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return the faults in the model's raw outputs, a sentence each."""
        shape = tuple(outputs[0].shape)
        if len(shape) != 4 or shape[1] != 2 or (shape[2] * 2, shape[3] * 2) not in self._sizes:
            return [
                f"the model's first output has shape {shape}, expected (batch, 2, height / 2, width / 2): a region map "
                "and an affinity map"
            ]
        return []

    def preprocess(self, item: Any) -> Sample:
        """Return a picture file scaled and normalised, float32 (3, height, width), multiples of 32, and its placement.

        What the rounding adds is zero, the mean colour, as is what a bucket adds.
        """
        if not isinstance(item, bytes):
            raise BadRequest(f"found {type(item).__name__}, expected the bytes of a picture file")
        image = images.decode_image(item, most_bytes=self.detector.most_bytes, most_pixels=self.detector.most_pixels)
        width, height = scaled_size((image.width, image.height), self._sizes, self.detector.magnification)
        if (width, height) != (image.width, image.height):
            placement = Placement(image.width, image.height, width, height)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            placement = Placement(width, height, width, height)
        normalised = np.zeros((3, _round_up(height), _round_up(width)), np.float32)
        pixels = np.asarray(image, np.float32) * self._scale + self._shift
        normalised[:, :height, :width] = pixels.transpose(2, 0, 1)
        return Sample((normalised,), placement)

    def answer(self, outputs: Tensors, note: Any, parameters: Mapping[str, Any]) -> Any:
        """Return ``{"boxes": [{"polygon": [[x, y], ...], "score": s}, ...], "width": w, "height": h}``.

        Four corners in the picture's own pixels, clockwise from the upper left; boxes in reading order.
        """
        maps = outputs[0].float().numpy()
        maps = maps[:, : -(-note.scaled_height // 2), : -(-note.scaled_width // 2)]
        if not np.isfinite(maps).all():
            raise ModelError("the model gave a map with values that are not numbers for this picture")
        found = find_words(maps[0], maps[1], self.detector)
        limits = np.array([note.width, note.height], np.float64)
        factor = 2 * limits / (note.scaled_width, note.scaled_height)
        boxes = [Box(np.clip(box.polygon * factor, 0, limits), box.score) for box in found]
        order = polygons.reading_order([box.polygon for box in boxes])
        return {
            "boxes": [
                {"polygon": np.round(boxes[number].polygon, 2).tolist(), "score": round(boxes[number].score, 4)}
                for number in order
            ],
            "width": note.width,
            "height": note.height,
        }

    def postprocess(self, outputs: Tensors) -> Any:
        """Return the answer for a picture that has the network's own size."""
        height, width = (2 * side for side in outputs[0].shape[-2:])
        return self.answer(outputs, Placement(width, height, width, height), {})

    def features(self, sample: Sample, parameters: Mapping[str, Any]) -> Features:
        """Return the cells of a grid over the picture, 8 x 8 or ``grid`` on a side; left out: the mean colour."""
        placement: Placement = sample.note
        cells, side = number_cells((placement.scaled_height, placement.scaled_width), parameters)
        groups = np.full(sample.inputs[0].shape[1:], -1)
        groups[: placement.scaled_height, : placement.scaled_width] = cells
        return Features((groups[None],), (0.0,), name_cells(side), (side, side))

    def targets(self, payload: Payload, outputs: Sequence[Tensors]) -> List[Target]:
        """Return how much of each picture is text: the mean of its region map."""
        if payload.parameters.get("target", _TARGET) != _TARGET:
            raise BadRequest(f"the target is not one of this model's, expected {_TARGET!r}; or leave it out")
        return [Target(_TARGET, lambda found: found[0][:, 0].float().mean(dim=(1, 2))) for _ in outputs]

    def present(self, explanation: Explanation, features: Features, item: Any, accept: str) -> Any:
        """Return the weights as rows of the ``grid``, or a heat map over the picture."""
        if accept != PNG:
            return present_grid(explanation, features)
        most_bytes, most_pixels = self.detector.most_bytes, self.detector.most_pixels
        image = images.decode_image(item, most_bytes=most_bytes, most_pixels=most_pixels)
        box = (0.0, 0.0, float(image.width), float(image.height))
        return Encoded(PNG, draw_heat_map(image, explanation.values.reshape(features.grid), box))


class Box(NamedTuple):
    """A word's place."""

    polygon: np.ndarray  # four corners, float (4, 2)
    score: float  # largest value of the region map in it, at most 1


def find_words(region: np.ndarray, affinity: np.ndarray, settings: DetectorSettings) -> List[Box]:
    """Return the boxes of words in maps of equal shape, in the maps' pixels, best score first.

    The published procedure: pixels over either threshold that touch are one word; what only joins characters is cut
    off again; the rest is widened by a margin that grows with the word's height, for the maps' bumps are narrower than
    characters; around it goes the smallest rectangle (Baek et al. 2019, section 3.3.1, and the authors' code).
    """
    is_text = region > settings.low_text
    joined = is_text | (affinity > settings.link_threshold)
    components = polygons.find_components(joined)
    labels = components.paint(joined.shape)
    peaks = np.full(components.total, -np.inf)
    np.maximum.at(peaks, labels[joined], region[joined])
    measures = components.measure()
    kept = np.nonzero((measures.areas >= settings.smallest_area) & (peaks >= settings.text_threshold))[0]
    kept = kept[np.lexsort((-measures.areas[kept], -peaks[kept]))][: settings.most_boxes]
    boxes = []
    for number, points in zip(kept.tolist(), _outer_points(is_text, labels, kept)):
        reach = margin(*(int(each[number]) for each in measures)) / 2
        polygon = polygons.smallest_rectangle(polygons.grow(polygons.convex_hull(points), reach))
        boxes.append(Box(polygon, min(float(peaks[number]), 1.0)))
    return boxes


def _outer_points(is_text: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> List[np.ndarray]:
    """Return for each kept component the centres of the first and last pixel of each run of text in it."""
    rows, starts, stops = polygons.find_runs(is_text)
    owners = labels[rows, starts]
    order = np.argsort(owners, kind="stable")
    firsts = np.searchsorted(owners[order], kept, side="left")
    lasts = np.searchsorted(owners[order], kept, side="right")
    points = []
    for first, last in zip(firsts, lasts):
        runs = order[first:last]
        columns = np.concatenate([starts[runs], stops[runs] - 1])
        points.append(np.stack([columns, np.concatenate([rows[runs], rows[runs]])], axis=1) + 0.5)
    return points


def margin(area: int, width: int, height: int) -> int:
    """Return by how much a word is widened in all, in pixels of the maps (the authors' code, ``getDetBoxes_core``)."""
    return int(math.sqrt(area * min(width, height) / (width * height)) * 2)


def scaled_size(picture: Tuple[int, int], sizes: Sequence[Tuple[int, int]], magnification: float) -> Tuple[int, int]:
    """Return the width and height, at least 1, at which a picture of (width, height) goes into the network.

    The aspect is kept, as near as whole pixels can; the picture fits into the one of ``sizes``, (height, width) each,
    that shows it largest, and is enlarged by ``magnification`` at most.

    >>> scaled_size((1000, 500), [(256, 256), (256, 512)], 1.0)
    (512, 256)
    """
    width, height = picture
    scale = min(magnification, max(min(rows / height, columns / width) for rows, columns in sizes))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _round_up(side: int) -> int:
    return -(-side // _GRID) * _GRID


def _as_settings(settings: Mapping[str, Any]) -> DetectorSettings:
    lists = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    return DetectorSettings(**{**settings, **lists})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_numbers(values: object) -> bool:
    return isinstance(values, tuple) and len(values) == 3 and all(_is_number(each) for each in values)
