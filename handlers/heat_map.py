"""A picture with the weights of its parts painted over it."""

import io
from typing import Tuple

import numpy as np
from PIL import Image

# Ends of ColorBrewer's diverging map PuOr (colorbrewer2.org), which people of all kinds of colour vision tell apart.
FOR, AGAINST = (230, 97, 1), (94, 60, 153)
_OPACITY = 0.72  # of the largest weight; the picture shows through everywhere
_CONTRAST = 0.65  # of the grey picture below, so that neither colour drowns in black or white
SMALLEST_SIDE, LARGEST_SIDE = 256, 1024  # of the map's longer side: a thumbnail is enlarged, a photograph made smaller


def draw_heat_map(picture: Image.Image, weights: np.ndarray, box: Tuple[float, float, float, float]) -> bytes:
    """Return a PNG file of an RGB picture in grey, orange where weights speak for the target, violet where against.

    ``weights`` is (rows, columns), NaN where there is none; ``box`` the part of the picture that they cover: left, top,
    right, bottom in its pixels. The size is the picture's own, brought to 256 to 1024 pixels on its longer side.
    """
    longest = max(picture.size)
    factor = min(max(longest, SMALLEST_SIDE), LARGEST_SIDE) / longest
    width, height = (max(1, round(side * factor)) for side in picture.size)
    grey = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BICUBIC), np.float32)
    base = (127.5 + (grey - 127.5) * _CONTRAST)[:, :, None]
    strength = _stretch(weights, (width, height), tuple(each * factor for each in box))[:, :, None]
    colour = np.where(strength >= 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    opacity = np.abs(strength) * _OPACITY
    painted = base * (1 - opacity) + colour * opacity
    stream = io.BytesIO()
    Image.fromarray(painted.round().clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _stretch(weights: np.ndarray, size: Tuple[int, int], box: Tuple[float, ...]) -> np.ndarray:
    """Return weights over the largest of them, -1 to 1, for each pixel of a picture (width, height); 0 off the box."""
    known = np.where(np.isfinite(weights), weights, 0.0).astype(np.float32)
    largest = float(np.abs(known).max())
    width, height = size
    strength = np.zeros((height, width), np.float32)
    left, top = (round(each) for each in box[:2])
    right, bottom = min(max(left + 1, round(box[2])), width), min(max(top + 1, round(box[3])), height)
    if largest > 0 and right > left and bottom > top:
        cells = Image.fromarray(known / largest)
        # Bilinear: a window that moved over the picture gives no sharper edges than that.
        strength[top:bottom, left:right] = np.asarray(
            cells.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        )
    return strength
