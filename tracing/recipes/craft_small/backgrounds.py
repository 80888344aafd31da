"""What the rendered text stands on: colours, gradients, textures, shapes, and mixtures that look like a photograph."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def draw_background(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Return an RGB picture of ``size`` (width, height) without text."""
    kind = generator.choice(["plain", "gradient", "texture", "photo", "shapes"], p=[0.2, 0.2, 0.2, 0.25, 0.15])
    if kind == "plain":
        return Image.new("RGB", size, random_colour(generator))
    if kind == "gradient":
        return _gradient(size, generator)
    if kind == "texture":
        return _texture(size, generator)
    base = _clouds(size, generator) if kind == "photo" else _gradient(size, generator)
    return _with_shapes(base, generator, photographic=kind == "photo")


def random_colour(generator: np.random.Generator) -> tuple[int, int, int]:
    """Return an RGB colour: any, or a shade of grey."""
    if generator.random() < 0.4:
        return (int(generator.integers(256)),) * 3
    red, green, blue = generator.integers(0, 256, 3).tolist()
    return red, green, blue


def _gradient(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    # Four corners' colours, interpolated; near ones half of the time.
    corners = generator.integers(0, 256, (2, 2, 3))
    if generator.random() < 0.5:
        corners = corners[:1, :1] + generator.integers(-40, 41, (2, 2, 3))
    return Image.fromarray(corners.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _clouds(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Noise of several scales, each half as strong as the one before: what a picture out of focus looks like."""
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    strength = 70.0
    for cells in (2, 4, 8, 16, 32):
        shape = (max(2, cells * height // max(size)), max(2, cells * width // max(size)), 3)
        # Channels vary together for the most part, as they do in photographs.
        noise = generator.normal(0, 1, shape[:2])[:, :, None] + 0.5 * generator.normal(0, 1, shape)
        level = (128 + 50 * noise).clip(0, 255).astype(np.uint8)
        total += (np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BICUBIC), np.float32) - 128) * (
            strength / 50
        )
        strength *= 0.55
    return Image.fromarray((total + np.array(random_colour(generator))).clip(0, 255).astype(np.uint8))


def _texture(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Stripes, a grid, or grain of one pixel to five, in two colours that are not far apart."""
    width, height = size
    base = np.array(random_colour(generator), np.float32)
    other = (base + generator.normal(0, 25, 3)).clip(0, 255)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    period = generator.uniform(4, 40)
    angle = generator.uniform(0, np.pi)
    wave = np.sin((across * np.cos(angle) + down * np.sin(angle)) * 2 * np.pi / period)
    kind = generator.integers(3)
    if kind == 1:
        wave = np.maximum(wave, np.sin((down * np.cos(angle) - across * np.sin(angle)) * 2 * np.pi / period)) > 0.9
    elif kind == 2:
        cell = int(generator.integers(1, 6))
        grain = generator.random((height // cell + 1, width // cell + 1))
        wave = grain.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    share = np.asarray(wave, np.float32)[:, :, None] * 0.5 + 0.5
    return Image.fromarray((base * (1 - share) + other * share).clip(0, 255).astype(np.uint8))


def _with_shapes(image: Image.Image, generator: np.random.Generator, *, photographic: bool) -> Image.Image:
    """Return the picture with polygons, ellipses and lines on it: edges that are not text."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(int(generator.integers(2, 14))):
        colour = random_colour(generator)
        kind = generator.integers(4)
        centre = generator.random(2) * (width, height)
        reach = generator.uniform(4, 0.4 * max(width, height), 2)
        left, top = centre - reach / 2
        right, bottom = centre + reach / 2
        if kind == 0:
            draw.polygon([tuple(p) for p in centre + generator.normal(0, 0.5, (4, 2)) * reach], fill=colour)
        elif kind == 1:
            outline = colour if generator.random() < 0.5 else None
            fill = None if outline else colour
            draw.ellipse((left, top, right, bottom), fill=fill, outline=outline, width=int(generator.integers(1, 5)))
        elif kind == 2:
            draw.rectangle((left, top, right, bottom), fill=colour)
        else:
            draw.line((left, top, right, bottom), fill=colour, width=int(generator.integers(1, 6)))
    return image.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 3))) if photographic else image
