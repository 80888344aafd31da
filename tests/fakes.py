"""Stand-ins for what TorchServe hands over, and for a picture; used by tests of every kind."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from handlers.errors import BadRequest, ModelError
from handlers.handler import Handler, Tensors
from tracing.clean_run import StandInContext

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def make_context(folder: Path, headers: Sequence[Mapping[str, Any]] = ({},)) -> StandInContext:
    """Return a context for a worker in ``folder`` and a batch of requests with these headers."""
    context = StandInContext(str(folder), {"model": {"modelName": "tiny"}}, 4)
    context.begin(list(headers))
    return context


def make_picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a picture file of one colour, which the model of the recipe ``tiny`` names."""
    return save_picture(Image.new("RGB", size, COLOURS[colour]), kind)


def save_picture(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a Pillow image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


class Echo(Handler):
    """Takes numbers: refuses odd ones over 100, breaks on negative ones, cannot give out NaN."""

    def preprocess(self, item: float) -> tuple[torch.Tensor]:
        if item > 100:
            raise BadRequest(f"{item} is over 100")
        if item == 99:
            raise RuntimeError("preprocess has a bug")
        return (torch.tensor([float(item)]),)

    def postprocess(self, outputs: Tensors) -> float:
        value = float(outputs[0])
        if value != value:
            raise ModelError("no number")
        if value == 98:
            raise KeyError("postprocess has a bug")
        return value


def run_model(batch: torch.Tensor) -> Tensors:
    """The identity; raises for a batch that holds 97, gives NaN for 96."""
    if bool((batch == 97).any()):
        raise RuntimeError("the model cannot take 97")
    return (torch.where(batch == 96, torch.tensor(float("nan")), batch),)
