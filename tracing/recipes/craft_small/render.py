"""Pictures of words, with the exact place of every character: what the small detector is trained and tested on.

    python tracing/recipes/craft_small/render.py --out /tmp/pictures --count 8

writes pictures with their words outlined. Fonts are the ``.ttf`` files of a folder, or the one that Pillow brings.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the recipe's folder is not a package

from backgrounds import draw_background, random_colour

BUILT_IN = ""  # stands for Pillow's own font (Aileron)
_VOWELS, _CONSONANTS = "aeiouy", "bcdfghjklmnpqrstvwxz"
_PUNCTUATION = ".,:;!?-'\"()/&%$@#*+=_"
_MARGIN = 0.08  # of the font's size, between the ink and a word's box
_LEAST_CONTRAST = 55  # of brightness between the ink and what is under it, of 255
_MOST_HIDDEN = 0.12  # share of a word's area with less contrast


@dataclass(frozen=True)
class Word:
    """A word in a picture: corners in pixels, clockwise from the first character's upper left."""

    text: str
    polygon: np.ndarray  # (4, 2), x and y
    characters: np.ndarray  # (characters, 4, 2)


@dataclass(frozen=True)
class Scene:
    """A picture and all words in it."""

    image: Image.Image
    words: tuple[Word, ...]


@dataclass(frozen=True, kw_only=True)
class Style:
    """What pictures to draw."""

    fonts: Sequence[str]  # paths of .ttf files, or BUILT_IN
    least_size: int = 10  # of a font, in pixels
    most_size: int = 60
    most_angle: float = 15.0  # in degrees, either way
    most_blocks: int = 6  # of text in one picture


def list_fonts(folder: Path) -> list[str]:
    """Return the paths of a folder's .ttf files, sorted; raise ``FileNotFoundError`` where there are none."""
    fonts = sorted(str(path) for path in folder.rglob("*.ttf"))
    if not fonts:
        raise FileNotFoundError(
            f"no .ttf file in {folder}: install fonts (Debian: fonts-dejavu) or name another folder"
        )
    return fonts


def render_scene(size: tuple[int, int], style: Style, generator: np.random.Generator) -> Scene:
    """Return a picture of ``size`` (width, height) with blocks of text that do not touch."""
    image = draw_background(size, generator)
    words: list[Word] = []
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(int(generator.integers(1, style.most_blocks + 1))):
        block = _lay_block(size, style, generator)
        place = _find_place(block, size, taken, generator)
        if place is None or not _paste(image, block, place, generator):
            continue
        taken.append(_bounds(block.outline + place))
        words += [Word(each.text, each.polygon + place, each.characters + place) for each in block.words]
    return Scene(_photograph(image, generator), tuple(words))


@dataclass(frozen=True)
class _Block:
    """Lines of words, turned: a mask of ink, with the words' places in it."""

    mask: Image.Image
    outline: np.ndarray
    words: tuple[Word, ...]


def _lay_block(size: tuple[int, int], style: Style, generator: np.random.Generator) -> _Block:
    # Small sizes are as frequent as large ones by ratio, as they are in pictures.
    pixels = round(np.exp(generator.uniform(np.log(style.least_size), np.log(style.most_size + 0.5))))
    font = _load_font(str(generator.choice(np.array(style.fonts))), pixels)
    most_width = size[0] * generator.uniform(0.4, 0.95)
    lines = [_fill_line(font, most_width, generator) for _ in range(int(generator.choice([1, 1, 1, 2, 3])))]
    pitch = pixels * generator.uniform(1.2, 1.7)
    edge = pixels // 2 + 2
    width = int(max(font.getlength(line) for line in lines)) + 2 * edge
    mask = Image.new("L", (width, int(pitch * len(lines)) + 2 * edge), 0)
    draw = ImageDraw.Draw(mask)
    words: list[Word] = []
    for number, line in enumerate(lines):
        origin = (edge, edge + number * pitch)
        draw.text(origin, line, fill=255, font=font)
        words += _measure_words(line, font, origin, pixels)
    angle = generator.uniform(-style.most_angle, style.most_angle) if generator.random() < 0.6 else 0.0
    return _turn(mask, words, angle)


def _fill_line(font: ImageFont.FreeTypeFont, most_width: float, generator: np.random.Generator) -> str:
    line = _cut(random_word(generator), font, most_width)
    for _ in range(int(generator.choice([0, 0, 1, 2, 3, 4]))):
        longer = f"{line} {random_word(generator)}"
        if font.getlength(longer) > most_width:
            break
        line = longer
    return line


def _cut(word: str, font: ImageFont.FreeTypeFont, most_width: float) -> str:
    while len(word) > 1 and font.getlength(word) > most_width:
        word = word[:-1]
    return word


def random_word(generator: np.random.Generator) -> str:
    """Return a word of one to thirteen characters: syllables in one of three cases, a number, or a mixture."""
    kind = generator.choice(["syllables", "number", "mixture"], p=[0.7, 0.15, 0.15])
    if kind == "number":
        digits = "".join(str(each) for each in generator.integers(0, 10, int(generator.integers(1, 7))))
        return str(generator.choice([digits, f"{digits}%", f"${digits}", f"{digits[:2]}:{digits[2:]}0", f"{digits}.5"]))
    if kind == "mixture":
        letters = list(_VOWELS + _CONSONANTS + (_VOWELS + _CONSONANTS).upper() + "0123456789" + _PUNCTUATION)
        inner = generator.choice(letters, int(generator.integers(1, 9)))
        return str(generator.choice(letters[:52])) + "".join(inner)
    syllables = [
        generator.choice(list(_CONSONANTS))
        + generator.choice(list(_VOWELS))
        + generator.choice(["", "", "n", "s", "r"])
        for _ in range(int(generator.integers(1, 5)))
    ]
    word = "".join(syllables)
    word = str(generator.choice([word, word, word.capitalize(), word.upper()]))
    return word + str(generator.choice(["", "", "", "", ".", ",", "!", "?", ":"]))


def _measure_words(line: str, font: ImageFont.FreeTypeFont, origin: tuple[float, float], pixels: int) -> list[Word]:
    """Return the words of a line with upright boxes: the height of the word's ink, each character's advance."""
    words = []
    start = 0
    for text in line.split(" "):
        before = line[:start]
        edges = [origin[0] + font.getlength(before + text[:count]) for count in range(len(text) + 1)]
        _, top, _, bottom = font.getbbox(text)
        upper, lower = origin[1] + top - _MARGIN * pixels, origin[1] + bottom + _MARGIN * pixels
        boxes = [_corners(left, upper, right, lower) for left, right in pairwise(edges)]
        words.append(Word(text, _corners(edges[0], upper, edges[-1], lower), np.array(boxes)))
        start += len(text) + 1
    return words


def _corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def _turn(mask: Image.Image, words: Sequence[Word], angle: float) -> _Block:
    """Return a block turned counterclockwise by ``angle`` degrees about its centre."""
    turned = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True) if angle else mask
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotation = np.array([[cosine, -sine], [sine, cosine]])  # of rows (x, y), y downwards
    old, new = np.array(mask.size) / 2, np.array(turned.size) / 2
    moved = [
        Word(each.text, (each.polygon - old) @ rotation + new, (each.characters - old) @ rotation + new)
        for each in words
    ]
    outline = np.concatenate([each.polygon for each in moved])
    return _Block(turned, outline, tuple(moved))


def _bounds(points: np.ndarray) -> tuple[float, float, float, float]:
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _find_place(
    block: _Block, size: tuple[int, int], taken: Sequence[Sequence[float]], generator: np.random.Generator
) -> np.ndarray | None:
    """Return where to put a block's mask, whole pixels, so that all its words are inside and touch no other block."""
    left, top, right, bottom = _bounds(block.outline)
    room = np.array(size) - (right - left, bottom - top)
    if room.min() < 2:
        return None
    for _ in range(8):
        place = np.round(generator.random(2) * room - (left, top))
        box = (left + place[0], top + place[1], right + place[0], bottom + place[1])
        if not any(_touch(box, other) for other in taken):
            return np.asarray(place)
    return None


def _touch(one: Sequence[float], other: Sequence[float], gap: float = 4) -> bool:
    return one[0] < other[2] + gap and other[0] < one[2] + gap and one[1] < other[3] + gap and other[1] < one[3] + gap


def _paste(image: Image.Image, block: _Block, place: np.ndarray, generator: np.random.Generator) -> bool:
    """Draw a block in a colour in which all of it can be read, and return True; or False where none was found."""
    under = image.convert("L")
    areas = [np.asarray(under.crop(_whole(_bounds(each.polygon + place))), np.float64) for each in block.words]
    for _ in range(12):
        colour = random_colour(generator)
        if all((np.abs(area - _brightness(colour)) < _LEAST_CONTRAST).mean() < _MOST_HIDDEN for area in areas):
            break
    else:
        return False
    corner = (int(place[0]), int(place[1]))
    if generator.random() < 0.1:  # a shadow
        image.paste(random_colour(generator), (corner[0] + 1, corner[1] + 1), block.mask)
    image.paste(colour, corner, block.mask)
    return True


def _whole(bounds: Sequence[float]) -> tuple[int, int, int, int]:
    left, top, right, bottom = bounds
    return int(left), int(top), int(right) + 1, int(bottom) + 1


def _brightness(colour: Sequence[float]) -> float:
    return float(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])  # ITU-R BT.601


def _photograph(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return the picture blurred, with noise and as a JPEG would keep it, each sometimes."""
    if generator.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.2, 1.0)))
    if generator.random() < 0.4:
        noise = generator.normal(
            0, generator.uniform(2, 14), (image.height, image.width, 1 + 2 * generator.integers(2))
        )
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if generator.random() < 0.4:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(generator.integers(40, 95)))
        image = Image.open(stream).convert("RGB")
    return image


@lru_cache(maxsize=512)
def _load_font(path: str, pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(pixels) if path == BUILT_IN else ImageFont.truetype(path, pixels)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType and cannot draw text of a chosen size")
    return font


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 320), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--fonts", type=Path, help="folder of .ttf files; without it, Pillow's own font")
    return parser.parse_args()


def main() -> None:
    arguments = _parse_arguments()
    fonts = list_fonts(arguments.fonts) if arguments.fonts else [BUILT_IN]
    generator = np.random.default_rng(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        scene = render_scene(tuple(arguments.size), Style(fonts=fonts), generator)
        draw = ImageDraw.Draw(scene.image)
        for word in scene.words:
            draw.polygon([tuple(point) for point in word.polygon], outline=(255, 0, 0))
        scene.image.save(arguments.out / f"{number:03}.png")


if __name__ == "__main__":
    main()
