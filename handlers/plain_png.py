"""PNG files of the plainest kind, for which Pillow's way through formats, chunks and tiles takes as long as the rest.

Pillow's own decoder unpacks the pixels here too. Whatever is not as plain as this is Pillow's from the start: other
colour types, interlacing, palettes, transparency, texts, EXIF, wrong checksums, a file that ends early or goes on.
"""

import struct
from typing import Any, Callable, List, Optional, Tuple
from zlib import compress, crc32

import numpy as np
from PIL import Image

Unpack = Callable[[str, Tuple[int, int], bytes], np.ndarray]

MOST_BYTES = 65536  # of a file: over a larger one the steps that are saved do not matter
_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_FIRST_CHUNK = 8  # bytes before it: the signature
# Bit depth, colour type, compression, filter and interlacing of the two kinds: 8-bit RGB and greyscale.
_MODES = {b"\x08\x02\x00\x00\x00": "RGB", b"\x08\x00\x00\x00\x00": "L"}
_IGNORED = (b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME")  # Pillow's pixels are the same whatever these say
_MOST_PIXELS = 1 << 20  # a file of 64 kB could hold 20 times as many
_core: Any = vars(Image).get("core")  # Pillow's part in C; None in a release that calls it otherwise
_read_head = struct.Struct(">I4s").unpack_from
_read_number = struct.Struct(">I").unpack_from
_read_size = struct.Struct(">II").unpack_from


def read_plain_png(data: bytes, most_pixels: int) -> Optional[np.ndarray]:
    """Return the pixels as RGB, uint8 of shape (height, width, 3), not to be written to.

    None is for Pillow to open: a picture that is not plain, large or too large.

    Never raises.
    """
    mode = _MODES.get(data[24:29])
    if mode is None or len(data) > MOST_BYTES or not data.startswith(_HEAD):
        return None
    try:
        width, height = size = _read_size(data, 16)
        packed = _join_pixels(data)
        if packed is None or not 0 < width * height <= min(most_pixels, _MOST_PIXELS):
            return None
        pixels = _unpack(mode, size, packed)
    except Exception:  # struct.error, ValueError of a decoder...: Pillow says what is wrong
        return None
    return pixels if mode == "RGB" else pixels.repeat(3, axis=2)


def _join_pixels(data: bytes) -> Optional[bytes]:
    """Return what the IDAT chunks hold, or None for an unknown chunk, a wrong checksum, or an unusual order."""
    parts: List[bytes] = []
    at, kind = _FIRST_CHUNK, b""
    while kind != b"IEND":
        before = kind
        length, kind = _read_head(data, at)
        end = at + 8 + length
        if crc32(data[at + 4 : end]) != _read_number(data, end)[0]:
            return None
        if kind == b"IDAT":
            if parts and before != b"IDAT":
                return None
            parts.append(data[at + 8 : end])
        elif kind not in _IGNORED and kind != b"IEND" and at != _FIRST_CHUNK:
            return None
        at = end + 4
    return b"".join(parts) if at == len(data) else None


def unpack_by_image(mode: str, size: Tuple[int, int], packed: bytes) -> np.ndarray:
    """Return the pixels that a picture's zlib stream holds, through Pillow's public class; raise what Pillow does.

    ``size`` is (width, height); of shape (height, width, 3) for mode RGB, (height, width, 1) for L.
    """
    return np.asarray(Image.frombytes(mode, size, packed, "zip", mode)).reshape(size[1], size[0], -1)


def unpack_by_core(mode: str, size: Tuple[int, int], packed: bytes) -> np.ndarray:
    """Return the same by the same decoder, without the objects that Pillow's class makes on the way.

    These are the calls of ``Image.frombytes`` and ``Image.tobytes``, which Pillow does not document. What they save is
    in docs/decisions/0025-plain-png.md.
    """
    width, height = size
    box = (0, 0, width, height)
    image = _core.new(mode, size)
    decoder = _core.zip_decoder(mode, mode)
    decoder.setimage(image, box)
    left, error = decoder.decode(packed)
    if left >= 0 or error:
        raise ValueError("the stream is broken, or ends before the pixels do")
    encoder = _core.raw_encoder(mode, mode)
    encoder.setimage(image, box)
    _, done, pixels = encoder.encode(width * height * (3 if mode == "RGB" else 1))
    if done != 1:
        raise ValueError("the pixels were not written in one piece")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, -1)


def choose_unpack(quick: Unpack = unpack_by_core) -> Unpack:
    """Return ``quick`` if this release of Pillow gives the same by it as by its class, or else the way by the class."""
    try:
        for mode, count in (("RGB", 3), ("L", 1)):
            # Two rows of two pixels: the first as it is (filter 0), the second as differences from the first (2).
            first, second = bytes(range(1, 2 * count + 1)), bytes(range(50, 50 + 2 * count))
            packed = compress(b"\0" + first + b"\2" + second)
            if not np.array_equal(quick(mode, (2, 2), packed), unpack_by_image(mode, (2, 2), packed)):
                return unpack_by_image
    except Exception:  # whatever an unknown release does
        return unpack_by_image
    return quick


_unpack = choose_unpack()
