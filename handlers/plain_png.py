"""PNG files of the plainest kind, for which Pillow's way through formats, chunks and tiles takes as long as the rest.

Pillow's own decoder unpacks the pixels here too. Whatever is not as plain as this is Pillow's from the start: other
colour types, interlacing, palettes, transparency, texts, EXIF, wrong checksums, a file that ends early or goes on.
"""

import struct
from typing import List, Optional
from zlib import crc32

from PIL import Image

MOST_BYTES = 65536  # of a file: over a larger one the steps that are saved do not matter
_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_FIRST_CHUNK = 8  # bytes before it: the signature
# Bit depth, colour type, compression, filter and interlacing of the two kinds: 8-bit RGB and greyscale.
_MODES = {b"\x08\x02\x00\x00\x00": "RGB", b"\x08\x00\x00\x00\x00": "L"}
_IGNORED = (b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME")  # Pillow's pixels are the same whatever these say
_MOST_PIXELS = 1 << 20  # a file of 64 kB could hold 20 times as many
_read_head = struct.Struct(">I4s").unpack_from
_read_number = struct.Struct(">I").unpack_from
_read_size = struct.Struct(">II").unpack_from


def read_plain_png(data: bytes, most_pixels: int) -> Optional[Image.Image]:
    """Return the picture, of mode RGB or L, or None for Pillow to open: one that is not plain, large or too large.

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
        return Image.frombytes(mode, size, packed, "zip", mode)
    except Exception:  # struct.error, ValueError of a decoder...: Pillow says what is wrong
        return None


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
