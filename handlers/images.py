"""From the bytes of a picture file, whatever a client sends, to an array of the shape that the model takes."""

import io
import warnings
from typing import Tuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  Pillow loads it late

from handlers.errors import BadRequest, RequestError, TooLarge, UnsupportedType
from handlers.plain_png import read_plain_png

# Formats that clients of image models send; every further decoder is surface for malformed files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# How the formats begin, to tell a broken picture (400) from something else (415).
_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM")
_WHITE = (255, 255, 255)
# Where Pillow looks for a rotation: EXIF blocks, those of ImageMagick in PNG files, and XMP.
_ROTATION_NOTES = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
# A table rather than arithmetic: a picture of 40 megapixels would take hundreds of MB as floating point numbers.
_SIXTEEN_TO_EIGHT = (np.arange(65536) / 257).round().astype(np.uint8)

# The limit on pixels is ours, checked before decoding; Pillow's own would only warn between its two thresholds.
Image.MAX_IMAGE_PIXELS = None


def read_pixels(
    data: bytes, size: Tuple[int, int], *, crop_share: float, most_bytes: int, most_pixels: int
) -> np.ndarray:
    """Return the middle of a picture file, as ``resize_to`` gives it of what ``decode_image`` does."""
    _check_bytes(data, most_bytes)
    plain = read_plain_png(data, most_pixels)
    if plain is not None and plain.shape[:2] == size and crop_share == 1.0:
        return plain
    image = _decode(data, most_pixels) if plain is None else Image.fromarray(plain)
    return resize_to(image, size, crop_share=crop_share)


def decode_image(data: bytes, *, most_bytes: int, most_pixels: int) -> Image.Image:
    """Return a picture file's first frame as upright 8-bit RGB.

    Palette, greyscale, CMYK and 16-bit pictures are converted; transparency is laid over white; the rotation that a
    camera noted (EXIF) is carried out. Raises ``TooLarge`` over either limit, ``UnsupportedType`` for what is no
    picture of a known format, ``BadRequest`` for one that is broken.
    """
    _check_bytes(data, most_bytes)
    plain = read_plain_png(data, most_pixels)
    return _decode(data, most_pixels) if plain is None else Image.fromarray(plain)


def _check_bytes(data: bytes, most_bytes: int) -> None:
    if len(data) > most_bytes:
        raise TooLarge(f"the file has {len(data):,} bytes, at most {most_bytes:,} are taken; send a smaller picture")


def _decode(data: bytes, most_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about odd but readable files are of no use to a server
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_pixels(image, most_pixels)
            image.load()
            # Read again, because loading can change the size (a JPEG with a wrong header).
            _check_pixels(image, most_pixels)
            return _to_rgb(_upright(image))
    except RequestError:
        raise
    except UnidentifiedImageError as exc:
        raise _explain_unreadable(data) from exc
    except MemoryError as exc:
        raise TooLarge("the picture needs more memory than there is; send a smaller one") from exc
    except Exception as exc:
        # OSError, SyntaxError, struct.error, zlib.error, IndexError...: a decoder raises anything on a malformed file.
        raise BadRequest(f"the picture is broken or cut off ({exc}); send the whole file") from exc


def resize_to(image: Image.Image, size: Tuple[int, int], *, crop_share: float) -> np.ndarray:
    """Return the middle of an RGB picture as uint8 of shape (height, width, 3); ``size`` is (height, width).

    The middle is the largest part with the shape of ``size``, times ``crop_share``; it is resized with antialiasing
    (bilinear), in one step with the crop.
    """
    height, width = size
    if (image.width, image.height) == (width, height) and crop_share == 1.0:
        return np.asarray(image)
    box = find_crop((image.width, image.height), size, crop_share=crop_share)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def find_crop(
    picture: Tuple[int, int], size: Tuple[int, int], *, crop_share: float
) -> Tuple[float, float, float, float]:
    """Return the part of a picture of (width, height) that ``resize_to`` takes: left, top, right, bottom in pixels."""
    height, width = size
    scale = min(picture[0] / width, picture[1] / height) * crop_share
    box_width, box_height = width * scale, height * scale
    left, top = (picture[0] - box_width) / 2, (picture[1] - box_height) / 2
    return (left, top, left + box_width, top + box_height)


def _check_pixels(image: Image.Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise TooLarge(
            f"the picture has {image.width} x {image.height} pixels, at most {most_pixels:,} are taken; "
            "send a smaller one"
        )


def _upright(image: Image.Image) -> Image.Image:
    if not _ROTATION_NOTES.intersection(image.info):
        return image  # looking for a rotation takes longer than all else that is done to a small picture here
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # a broken EXIF block spoils only the hint how to turn the picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit greyscale. Pillow's own conversion cuts off at 255 instead of scaling.
        return Image.fromarray(_SIXTEEN_TO_EIGHT[np.asarray(image).clip(0, 65535).astype(np.uint16)]).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, _WHITE)
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image.convert("RGB")


def _explain_unreadable(data: bytes) -> Exception:
    if data.startswith(_SIGNATURES):
        return BadRequest("the picture is broken: it begins like one but cannot be read; send the whole file")
    return UnsupportedType(
        f"the {len(data):,} bytes are no picture that this model reads; expected one of: {', '.join(FORMATS)}"
    )
