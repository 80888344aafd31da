"""Pictures of every kind that clients send, and files that are none."""

import contextlib
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers import images
from handlers.errors import BadRequest, RequestError, TooLarge, UnsupportedType
from tests.fakes import save_picture

RED = (255, 0, 0)


def decode(data: bytes, *, most_bytes: int = 8_000_000, most_pixels: int = 40_000_000) -> Image.Image:
    return images.decode_image(data, most_bytes=most_bytes, most_pixels=most_pixels)


def plain(mode: str, colour, size=(16, 12)) -> Image.Image:
    return Image.new(mode, size, colour)


def half_transparent_palette() -> Image.Image:
    """Red, half of it transparent by palette entry."""
    image = plain("P", 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (8, 0, 16, 12))
    return image


def make_png(width: int, height: int, *, depth: int = 1, colour: int = 0) -> bytes:
    """A well-formed PNG of zeros, small whatever its size, because rows of zeros shrink to nothing."""
    row = b"\0" * (1 + (width * depth + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_is_read(kind):
    """A red picture is red in each format, as far as the format's loss allows."""
    image = decode(save_picture(plain("RGB", RED), kind))
    assert (image.mode, image.size) == ("RGB", (16, 12))
    assert np.abs(np.asarray(image).astype(int) - RED).max() < 12


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain("L", 200), (200, 200, 200)),
        (plain("1", 1), (255, 255, 255)),
        (plain("1", 0), (0, 0, 0)),
        (plain("LA", (0, 255)), (0, 0, 0)),
        (plain("LA", (0, 0)), (255, 255, 255)),
        (plain("RGBA", (255, 0, 0, 255)), RED),
        (plain("RGBA", (255, 0, 0, 0)), (255, 255, 255)),
        (plain("RGBA", (0, 0, 0, 51)), (204, 204, 204)),
        (plain("RGB", RED).convert("P"), RED),
        (plain("I;16", 65535), (255, 255, 255)),
        (plain("I;16", 32896), (128, 128, 128)),
        (plain("I;16", 257), (1, 1, 1)),
    ],
    ids=lambda value: f"{value.mode}" if isinstance(value, Image.Image) else "{}-{}-{}".format(*value),
)
def test_every_mode_becomes_rgb(image, expected):
    """Grey, 16-bit, 1-bit and palette pictures keep their brightness; transparency is laid over white."""
    pixels = np.asarray(decode(save_picture(image)))
    assert pixels.shape == (12, 16, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_transparent_palette_entry_is_white():
    """Palette pictures may have a transparent entry, and the others keep their colours."""
    image = decode(save_picture(half_transparent_palette(), "PNG", transparency=1))
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((15, 0)) == (255, 255, 255)


def test_a_transparent_colour_of_an_rgb_picture_is_white():
    """A PNG may name one colour as transparent without an alpha channel."""
    picture = plain("RGB", RED)
    picture.paste((0, 0, 255), (8, 0, 16, 12))
    image = decode(save_picture(picture, "PNG", transparency=RED))
    assert (image.getpixel((0, 0)), image.getpixel((15, 0))) == ((255, 255, 255), (0, 0, 255))


def test_a_cmyk_jpeg_is_read():
    """Print shops send CMYK: no cyan, all magenta and yellow is red."""
    pixels = np.asarray(decode(save_picture(plain("CMYK", (0, 255, 255, 0)), "JPEG")))
    assert np.abs(pixels.astype(int) - RED).max() < 12


def test_of_an_animation_the_first_frame_is_taken():
    """A GIF of red, then blue, is red."""
    frames = [plain("RGB", colour) for colour in ((0, 255, 0), (0, 0, 255))]
    data = save_picture(plain("RGB", RED), "GIF", save_all=True, append_images=frames)
    assert decode(data).getpixel((3, 3)) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_rotation_is_carried_out(orientation):
    """The picture comes out upright for each of the eight EXIF orientations."""
    upright = plain("RGB", (0, 0, 255), (32, 16))
    upright.paste(RED, (0, 0, 16, 8))  # the top left corner is red
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that a camera would have made
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(save_picture(stored, "PNG", exif=exif))
    assert image.size == (32, 16)
    assert np.array_equal(np.asarray(image), np.asarray(upright))


def test_a_rotation_that_only_xmp_notes_is_carried_out():
    """Some editors write the camera's rotation there and nowhere else."""
    stored = Image.new("RGB", (4, 2), "red")
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(save_picture(stored, "JPEG", xmp=note)).size == (2, 4)


def test_a_broken_exif_block_does_not_spoil_the_picture():
    """Only the hint how to turn the picture is lost."""
    data = save_picture(plain("RGB", RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(data).size == (16, 12)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_any_size_comes_out_as_the_model_takes_it(size):
    """One pixel, a line, a column: the array has the model's shape."""
    pixels = images.resize_to(decode(save_picture(plain("RGB", RED, size))), (8, 10), crop_share=1.0)
    assert (pixels.shape, pixels.dtype) == ((8, 10, 3), np.uint8)
    assert (pixels == RED).all()


def test_the_middle_is_cut_out_and_not_squeezed():
    """Of a wide picture the sides fall away."""
    image = plain("RGB", (0, 0, 255), (300, 100))
    image.paste(RED, (100, 0, 200, 100))
    assert (images.resize_to(image, (20, 20), crop_share=1.0)[:, 1:-1] == RED).all()


def test_the_crop_share_leaves_the_rim_away():
    """With a share of a half, only the inner half of each side is seen."""
    image = plain("RGB", (0, 0, 255), (100, 100))
    image.paste(RED, (25, 25, 75, 75))
    assert (images.resize_to(image, (20, 20), crop_share=0.5)[1:-1, 1:-1] == RED).all()


def test_a_picture_of_the_models_size_is_not_touched():
    """What fits goes in pixel for pixel."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert np.array_equal(images.resize_to(noise, (8, 8), crop_share=1.0), np.asarray(noise))


@pytest.mark.parametrize(
    "bomb",
    [make_png(13_000, 13_000), make_png(13_000, 13_000, depth=8, colour=3), make_png(2_000_000, 21)],
    ids=["1-bit", "palette", "wide"],
)
def test_a_decompression_bomb_is_refused_before_it_unpacks(bomb):
    """A file of kilobytes with 169 million pixels costs neither time nor memory."""
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(TooLarge, match="pixels, at most 40,000,000 are taken"):
        decode(bomb)
    assert time.process_time() - began < 0.1  # decoding takes several times that
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_pixel_limit_itself_is_allowed():
    """As many pixels as the limit says are taken, one more is not."""
    data = make_png(100, 100)
    assert decode(data, most_pixels=10_000).size == (100, 100)
    with pytest.raises(TooLarge, match="100 x 100"):
        decode(data, most_pixels=9_999)


def test_too_many_bytes_are_refused_unread():
    """The limit on bytes comes before anything looks into the file."""
    with pytest.raises(TooLarge, match="has 1,001 bytes, at most 1,000"):
        decode(b"x" * 1_001, most_bytes=1_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_picture_is_refused(kind, tenths):
    """A file cut off anywhere is 400 or, with nothing to know it by, 415; never half a picture."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = save_picture(noise, kind)
    with pytest.raises((BadRequest, UnsupportedType)) as caught:
        decode(data[: len(data) * tenths // 10])
    if tenths:
        assert caught.type is BadRequest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        save_picture(Image.new("RGB", (4, 4)), "TIFF"),
        save_picture(Image.new("RGB", (4, 4)), "PPM"),
        save_picture(Image.new("RGB", (4, 4)), "ICO"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"PK\x03\x04 a zip",
    ],
    ids=["empty", "text", "PDF", "SVG", "TIFF", "PPM", "ICO", "EPS", "zip"],
)
def test_what_is_no_picture_of_a_known_format_is_unsupported(data):
    """Other formats are answered with 415 and the list of those that are read; their decoders never run."""
    with pytest.raises(UnsupportedType, match="PNG, JPEG, WEBP, GIF, BMP") as caught:
        decode(data)
    assert caught.value.status == 415


SIGNATURES = st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x40\0\0\0WEBPVP8 ", b"GIF89a", b"GIF87a", b"BM"]
)


@settings(max_examples=400, deadline=None)
@given(SIGNATURES, st.binary(max_size=300))
def test_random_bytes_are_a_picture_or_a_request_error(signature, content):
    """Whatever follows a format's signature, a decoder's failure never leaves as anything but a request error."""
    with contextlib.suppress(RequestError):
        assert decode(signature + content, most_pixels=1_000_000).mode == "RGB"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_a_picture_or_a_request_error(kind, position, change):
    """One wrong byte anywhere in a real picture never raises anything but a request error."""
    data = bytearray(save_picture(plain("RGB", RED), kind))
    data[position % len(data)] ^= change
    with contextlib.suppress(RequestError):
        assert decode(bytes(data), most_pixels=1_000_000).mode == "RGB"


def test_decoding_leaves_no_warning(recwarn):
    """A server's log is not filled by odd but readable pictures."""
    decode(save_picture(half_transparent_palette(), "PNG", transparency=b"\x80\x80"))
    assert [str(each.message) for each in recwarn] == []
