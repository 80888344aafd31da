"""PNG files of the plainest kind: read as Pillow reads them, or left to it."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from handlers import images
from handlers.errors import BadRequest, TooLarge
from handlers.plain_png import MOST_BYTES, choose_unpack, read_plain_png, unpack_by_core, unpack_by_image

PIXELS = 40_000_000


def save(image: Image.Image, **options: object) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def make_noise(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Return a picture of random pixels, which every row's filter handles otherwise."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    smooth = np.random.default_rng(seed).integers(0, 9, shape).cumsum(axis=1) % 256
    return Image.fromarray(smooth.astype(np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def read_stock(data: bytes) -> np.ndarray:
    """Return the pixels that Pillow's own way gives, as RGB."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 7), (1, 200), (150, 100)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_pixels_are_pillows(mode: str, size: tuple[int, int], level: int) -> None:
    """Every pixel, for both kinds, odd sizes and stored, fast and small packing."""
    data = save(make_noise(mode, size), compress_level=level)
    found = read_plain_png(data, PIXELS)
    assert found is not None
    assert found.dtype == np.uint8
    assert np.array_equal(found, read_stock(data))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_picture_of_one_colour_is_read(mode: str) -> None:
    """A small file may hold a million pixels, which are written in one piece."""
    picture = Image.new(mode, (1024, 1024), 77 if mode == "L" else (1, 2, 3))
    found = read_plain_png(save(picture), PIXELS)
    assert found is not None
    assert np.array_equal(found, np.asarray(picture.convert("RGB")))


def test_this_release_of_pillow_is_asked_by_its_core() -> None:
    """The quick way is the one in use, not only the way back from it."""
    assert choose_unpack() is unpack_by_core


def _give_wrong(mode: str, size: tuple[int, int], packed: bytes) -> np.ndarray:
    return unpack_by_image(mode, size, packed)[::-1]


def _raise(mode: str, size: tuple[int, int], packed: bytes) -> np.ndarray:
    raise TypeError("function takes exactly 2 arguments (1 given)")


@pytest.mark.parametrize("quick", [_give_wrong, _raise])
def test_another_pillow_is_asked_by_its_class(quick: object) -> None:
    """A release whose core works otherwise is found out when the module is imported."""
    assert choose_unpack(quick) is unpack_by_image  # type: ignore[arg-type]


@pytest.mark.parametrize("unpack", [unpack_by_core, unpack_by_image])
@pytest.mark.parametrize("count", [0, 500, 3103])
def test_too_few_pixels_are_an_error(unpack: object, count: int) -> None:
    """Never a picture whose rest is what lay in memory."""
    with pytest.raises(ValueError, match=r"data|stream"):
        unpack("RGB", (32, 32), zlib.compress(bytes(count)))  # type: ignore[operator]


@pytest.mark.parametrize("size", [(32, 32), (20, 12)])
@pytest.mark.parametrize("crop_share", [1.0, 0.5])
@pytest.mark.parametrize("plain", [True, False])
def test_pixels_for_a_model_are_cropped_and_resized(size: tuple[int, int], crop_share: float, plain: bool) -> None:
    """Whether a picture has the model's size or not, plain or not, as by opening it and resizing it."""
    picture = make_noise("RGB", size)
    data = save(picture if plain else picture.convert("RGBA"))
    found = images.read_pixels(data, (32, 32), crop_share=crop_share, most_bytes=MOST_BYTES, most_pixels=PIXELS)
    assert np.array_equal(found, images.resize_to(picture, (32, 32), crop_share=crop_share))


def test_pixels_in_several_chunks_and_beside_remarks_are_read() -> None:
    """Encoders cut the pixels into chunks as they like, and note resolution, gamma and time."""
    data = save(make_noise("RGB", (40, 30)), dpi=(72, 72))
    at = data.index(b"IDAT") - 4
    length = struct.unpack_from(">I", data, at)[0]
    packed = data[at + 8 : at + 8 + length]
    parts = [chunk(b"IDAT", packed[cut : cut + 100]) for cut in range(0, length, 100)]
    time = chunk(b"tIME", bytes([7, 234, 11, 21, 0, 0, 0]))
    cut_up = data[:at] + chunk(b"gAMA", struct.pack(">I", 45455)) + b"".join(parts) + time + chunk(b"IEND", b"")
    found = read_plain_png(cut_up, PIXELS)
    assert found is not None
    assert np.array_equal(found, read_stock(data))
    apart = data[:at] + parts[0] + time + b"".join(parts[1:]) + chunk(b"IEND", b"")
    assert read_plain_png(apart, PIXELS) is None


def _with_text() -> bytes:
    note = PngImagePlugin.PngInfo()
    note.add_itxt("XML:com.adobe.xmp", "<x/>")
    return save(make_noise("RGB", (9, 9)), pnginfo=note)


def _with_rotation() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(make_noise("RGB", (9, 5)), exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        save(make_noise("RGB", (9, 9)).convert("P")),
        save(make_noise("RGB", (9, 9)).convert("RGBA")),
        save(make_noise("L", (9, 9)).convert("1")),
        save(make_noise("L", (9, 9)).convert("LA")),
        save(Image.fromarray(np.full((9, 9), 40000, np.uint16))),
        save(make_noise("L", (9, 9)), transparency=3),
        save(make_noise("RGB", (9, 9)), transparency=(1, 2, 3)),
        _with_text(),
        _with_rotation(),
        save(make_noise("RGB", (9, 9))) + b"more",
        save(Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8))),
        save(Image.new("RGB", (1100, 1100))),
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
    ],
    ids=[
        "palette",
        "alpha",
        "bits",
        "grey and alpha",
        "16 bits",
        "transparent grey",
        "transparent colour",
        "xmp",
        "exif",
        "tail",
        "large",
        "many pixels",
        "nothing",
        "signature",
        "jpeg",
    ],
)
def test_what_is_not_plain_is_left_to_pillow(data: bytes) -> None:
    """Colours, transparency, rotation and whatever is odd or large."""
    assert read_plain_png(data, PIXELS) is None


def test_a_rotation_is_carried_out_on_a_png_too() -> None:
    """A file that notes one does not take the short way."""
    image = images.decode_image(_with_rotation(), most_bytes=MOST_BYTES, most_pixels=PIXELS)
    assert image.size == (5, 9)


@pytest.mark.parametrize("kind", ["header", "cut", "checksum", "length", "pixels", "order"])
def test_a_broken_file_has_pillows_answer(kind: str) -> None:
    """Neither an exception of its own nor a picture that Pillow would not give."""
    data = save(make_noise("RGB", (32, 32)))
    at = data.index(b"IDAT")
    short = zlib.compress(b"\x00" * 500)
    broken = {
        "header": data[:16] + struct.pack(">II", 0, 32) + data[24:],
        "cut": data[: len(data) // 2],
        "checksum": data[: at + 50] + bytes([data[at + 50] ^ 1]) + data[at + 51 :],
        "length": data[: at - 4] + struct.pack(">I", 2**31) + data[at:],
        "pixels": data[: at - 4] + chunk(b"IDAT", short) + chunk(b"IEND", b""),
        "order": data[:8] + data[at - 4 :] + data[8 : at - 4],
    }[kind]
    assert read_plain_png(broken, PIXELS) is None


def test_most_pixels_holds_before_anything_is_unpacked() -> None:
    """The client learns its limit from the way that all pictures take."""
    data = save(make_noise("RGB", (32, 32)))
    assert read_plain_png(data, 32 * 32) is not None
    assert read_plain_png(data, 32 * 32 - 1) is None
    with pytest.raises(TooLarge, match="32 x 32 pixels, at most 1,023"):
        images.decode_image(data, most_bytes=MOST_BYTES, most_pixels=32 * 32 - 1)


def test_damaged_files_are_answered_as_without_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand files with bytes changed, dropped or doubled: the same pixels or the same kind of refusal."""
    chance = random.Random(5)
    whole = [save(make_noise(mode, (20, 12), seed)) for mode in ("RGB", "L") for seed in range(3)]
    damaged = [_damage(chance.choice(whole), chance) for _ in range(2000)]
    short = [_answer(each) for each in damaged]
    monkeypatch.setattr(images, "read_plain_png", lambda data, most_pixels: None)
    assert short == [_answer(each) for each in damaged]
    assert len(set(short)) > 10  # pictures and refusals are both among them


def _damage(data: bytes, chance: random.Random) -> bytes:
    at, kind = chance.randrange(len(data)), chance.randrange(4)
    if kind == 0:
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + 1 :]
    return data[:at] + data[max(0, at - 30) :]


def _answer(data: bytes) -> str:
    try:
        image = images.decode_image(data, most_bytes=MOST_BYTES, most_pixels=PIXELS)
    except Exception as exc:
        return type(exc).__name__
    return f"{image.size} {zlib.crc32(image.tobytes())}"


def test_public_pictures_are_read_alike() -> None:
    """The benchmark's own pictures, the plain case that this is for."""
    folder = Path(__file__).resolve().parents[2] / "benchmarking" / "recipes"
    paths = sorted(folder.glob("*.png"))
    assert paths
    for path in paths:
        found = read_plain_png(path.read_bytes(), PIXELS)
        assert found is not None, path
        assert np.array_equal(found, read_stock(path.read_bytes()))


def test_a_refusal_says_what_is_wrong() -> None:
    """As before: the words come from the way that all pictures take."""
    data = save(make_noise("RGB", (32, 32)))
    with pytest.raises(BadRequest, match="broken or cut off"):
        images.decode_image(data[: len(data) // 2], most_bytes=MOST_BYTES, most_pixels=PIXELS)
