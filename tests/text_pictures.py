"""Rendered pictures of words for tests, by the small detector's own renderer, and how well the words were found."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tracing.loading import SHIPPED, importing_from

with importing_from(SHIPPED / "craft_small"):
    import heat_maps
    import network
    import render
    import scoring

__all__ = ["SIZES", "encode", "find_all", "heat_maps", "make_scenes", "network", "render", "scoring"]
SIZES = ((256, 256), (512, 256), (400, 300), (300, 480), (512, 512))  # of pictures, in turn


def make_scenes(count: int, seed: int, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Any]:
    """Return scenes in Pillow's own font, which the detector has not been trained on."""
    style = render.Style(fonts=[render.BUILT_IN])
    generator = np.random.default_rng([seed, 2])
    return [render.render_scene(sizes[index % len(sizes)], style, generator) for index in range(count)]


def encode(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def find_all(scenes: Sequence[Any], answer: Callable[[bytes], Any]) -> Any:
    """Return the counts of words, boxes and matches when ``answer`` gives the JSON for a picture file."""
    total = scoring.Score()
    for scene in scenes:
        boxes = [np.array(box["polygon"]) for box in answer(encode(scene.image))["boxes"]]
        total += scoring.score_boxes([word.polygon for word in scene.words], boxes)
    return total
