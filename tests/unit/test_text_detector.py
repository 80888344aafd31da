"""The handler that finds text: settings checked, pictures scaled into buckets, maps turned into boxes."""

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError, TooLarge, UnsupportedType
from handlers.text_detector import DetectorSettings, Placement, TextDetector, find_words, margin, scaled_size
from tests.text_pictures import encode, heat_maps, make_scenes, scoring

SPEC = TensorSpec("picture", "float32", (1, 3, -1, -1))
BUCKETS = [[TensorSpec("picture", "float32", (1, 3, *size))] for size in ((64, 64), (64, 128), (128, 128))]
SETTINGS = DetectorSettings()


def make(**settings) -> TextDetector:
    return TextDetector(settings, BUCKETS)


def blank(width: int = 64, height: int = 64) -> np.ndarray:
    return np.zeros((2, height, width), np.float32)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"mean": [0.5]}, "expected mean: three numbers"),
        ({"std": [1, 1, 0]}, "expected std: three numbers over 0"),
        ({"std": [1, 1, float("nan")]}, "expected std: three numbers over 0"),
        ({"low_text": 0}, "expected low_text: a number over 0"),
        ({"link_threshold": True}, "expected link_threshold: a number over 0"),
        ({"text_threshold": 0.3}, "expected text_threshold: a number, at least low_text"),
        ({"magnification": 0}, "expected magnification: a number over 0"),
        ({"smallest_area": 1.5}, "expected smallest_area: a whole number over 0"),
        ({"most_boxes": 0}, "expected most_boxes: a whole number over 0"),
        ({"most_bytes": -1}, "expected most_bytes: a whole number over 0"),
        ({"most_pixels": "many"}, "expected most_pixels: a whole number over 0"),
        ({"low_txt": 0.3}, "unknown 'low_txt'; expected one of mean, std, text_threshold"),
    ],
)
def test_each_wrong_setting_is_named(settings, fault):
    """A recipe's author reads which setting is wrong and what it should be."""
    (found,) = TextDetector.check_settings(settings, [SPEC])
    assert fault in found


@pytest.mark.parametrize(
    "shape", [(1, 1, -1, -1), (1, 3, 64), (1, 3, 40, 64)], ids=["one channel", "no width", "no multiple of 32"]
)
def test_inputs_other_than_one_picture_are_refused(shape):
    """Three channels, and sides that the network can halve five times."""
    assert len(TextDetector.check_settings({}, [TensorSpec("picture", "float32", shape)])) == 1
    assert TextDetector.check_settings({}, [SPEC]) == []


def test_buckets_that_the_network_cannot_halve_are_refused():
    """Before anything is compiled."""
    with pytest.raises(ValueError, match=r"\[\(64, 70\)\] \(height, width\): expected multiples of 32"):
        TextDetector({}, [[TensorSpec("picture", "float32", (1, 3, 64, 70))]])


@pytest.mark.parametrize(
    ("shape", "faults"), [((1, 2, 32, 64), 0), ((1, 2, 64, 128), 1), ((1, 32, 64, 2), 1), ((1, 2), 1)], ids=str
)
def test_outputs_other_than_two_maps_of_half_the_size_are_refused(shape, faults):
    """The build says so, with the shape."""
    assert len(make().check_outputs((torch.zeros(shape),))) == faults


@pytest.mark.parametrize(
    ("picture", "magnification", "expected"),
    [
        ((64, 64), 1.0, (64, 64)),
        ((30, 20), 1.0, (30, 20)),  # never enlarged beyond the setting
        ((30, 20), 2.0, (60, 40)),
        ((30, 20), 100.0, (128, 85)),  # as far as the largest bucket has room
        ((1280, 640), 1.0, (128, 64)),
        ((640, 1280), 1.0, (64, 128)),
        ((100_000, 10), 1.0, (128, 1)),
        ((10, 100_000), 1.0, (1, 128)),
        ((1, 1), 1.0, (1, 1)),
    ],
)
def test_a_picture_is_scaled_into_the_largest_bucket(picture, magnification, expected):
    """Both sides alike, and at least to one pixel."""
    assert scaled_size(picture, [(64, 64), (64, 128), (128, 128)], magnification) == expected


@pytest.mark.parametrize(
    ("size", "shape"), [((50, 20), (3, 32, 64)), ((64, 64), (3, 64, 64)), ((500, 300), (3, 96, 128))], ids=str
)
def test_pixels_are_normalised_and_padded_by_the_mean_colour(size, shape):
    """Zero is the mean colour after normalisation; sides are multiples of 32."""
    sample = make(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]).preprocess(encode(Image.new("RGB", size, "white")))
    (pixels,) = sample.inputs
    note = sample.note
    assert pixels.shape == shape
    assert (note.width, note.height) == size
    assert np.allclose(pixels[:, : note.scaled_height, : note.scaled_width], 2)
    assert not pixels[:, note.scaled_height :].any()
    assert not pixels[:, :, note.scaled_width :].any()


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (5, BadRequest),
        (b"hello", UnsupportedType),
        (encode(Image.new("RGB", (9, 9)))[:40], BadRequest),
        (encode(Image.new("RGB", (90, 90))), TooLarge),
    ],
    ids=["number", "text", "cut off", "too many pixels"],
)
def test_what_is_no_readable_picture_is_refused(item, error):
    """As by the image classifier."""
    with pytest.raises(error):
        make(most_pixels=8000).preprocess(item)


def test_words_of_a_perfect_map_are_found():
    """The maps that the network learns give the words back: 98 % of them, and nothing else."""
    total = scoring.Score()
    for scene in make_scenes(12, seed=3):
        region, affinity = heat_maps.draw_maps(scene.words, scene.image.size)
        boxes = [2 * box.polygon for box in find_words(region, affinity, SETTINGS)]
        total += scoring.score_boxes([word.polygon for word in scene.words], boxes)
    assert total.words > 50
    assert min(total.recall, total.precision) >= 0.98


def test_two_characters_are_one_word_only_if_something_links_them():
    """The affinity map decides."""
    maps = blank()
    maps[0, 20:30, 10:20] = maps[0, 20:30, 24:34] = 0.9
    assert len(find_words(*maps, SETTINGS)) == 2
    maps[1, 22:28, 18:26] = 0.5
    assert len(find_words(*maps, SETTINGS)) == 1


def test_what_only_links_does_not_widen_a_box():
    """A link that sticks out is cut off again."""
    maps = blank()
    maps[0, 20:30, 10:20] = 0.9
    (expected,) = find_words(*maps, SETTINGS)
    maps[1, 22:28, 15:40] = 0.5
    (found,) = find_words(*maps, SETTINGS)
    assert np.ptp(found.polygon[:, 0]) <= np.ptp(expected.polygon[:, 0]) + 4  # only the margin may grow


@pytest.mark.parametrize(
    ("value", "side", "count"), [(0.9, 10, 1), (0.69, 10, 0), (0.9, 3, 0), (0.9, 4, 1)], ids=["yes", "low", "9", "16"]
)
def test_a_word_has_a_peak_and_an_area(value, side, count):
    """Over text_threshold, and smallest_area (10) or more."""
    maps = blank()
    maps[0, 5 : 5 + side, 5 : 5 + side] = value
    assert len(find_words(*maps, SETTINGS)) == count


@pytest.mark.parametrize(("area", "width", "height", "expected"), [(100, 10, 10, 6), (800, 40, 20, 8), (10, 10, 1, 2)])
def test_the_margin_is_the_published_one(area, width, height, expected):
    """int(2 * sqrt(area * shorter side / (width * height)))."""
    assert margin(area, width, height) == expected


def test_a_map_full_of_text_is_one_box():
    """As large as the picture, which it does not leave."""
    answer = make().answer((torch.ones(2, 32, 64),), Placement(128, 64, 128, 64), {})
    (box,) = answer["boxes"]
    assert sorted(box["polygon"]) == [[0, 0], [0, 64], [128, 0], [128, 64]]


def test_thousands_of_specks_give_the_best_boxes_soon():
    """At most most_boxes, by score, within a second."""
    maps = blank(512, 512)
    maps[0, ::4, ::4] = maps[0, 1::4, ::4] = 0.9
    maps[0, ::4, 1::4] = maps[0, 1::4, 1::4] = 0.8
    maps[0, 100, 100] = 1.0
    started = time.perf_counter()
    boxes = find_words(*maps, DetectorSettings(smallest_area=4, most_boxes=20))
    assert time.perf_counter() - started < 1
    assert len(boxes) == 20
    assert boxes[0].score == 1.0


def test_noise_is_answered_soon():
    """Every other pixel at random: 30 ms is usual, a loop over pixels would take seconds."""
    maps = np.random.default_rng(0).random((2, 256, 256)).astype(np.float32)
    started = time.perf_counter()
    find_words(*maps, SETTINGS)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_no_number_is_a_models_fault(value):
    """500, not a box."""
    maps = torch.zeros(2, 32, 32)
    maps[1, 3, 3] = value
    with pytest.raises(ModelError, match="values that are not numbers"):
        make().answer((maps,), Placement(64, 64, 64, 64), {})


def test_boxes_are_in_the_pictures_own_pixels():
    """A picture four times as wide as its input, three times as high, and what was padded is cut off."""
    maps = torch.zeros(2, 32, 64)
    maps[0, 6:14, 10:30] = 0.9
    maps[0, 5:25, 50:60] = 0.9  # in the padding
    answer = make().answer((maps,), Placement(400, 120, 100, 40), {})
    (box,) = answer["boxes"]
    corners = np.array(box["polygon"])
    assert (answer["width"], answer["height"]) == (400, 120)
    centre = corners.mean(axis=0)
    assert centre[0] == pytest.approx(20 * 2 * 4, abs=1)
    assert centre[1] == pytest.approx(10 * 2 * 3, abs=1)


def test_boxes_come_in_reading_order():
    """Lines from the top, words from the left."""
    maps = torch.zeros(2, 64, 64)
    for row, column in ((40, 5), (6, 40), (5, 5), (41, 40)):
        maps[0, row : row + 10, column : column + 18] = 0.9
    boxes = make().postprocess((maps,))["boxes"]
    lefts = [round(min(x for x, _ in box["polygon"])) for box in boxes]
    tops = [min(y for _, y in box["polygon"]) for box in boxes]
    assert [left < 40 for left in lefts] == [True, False, True, False]
    assert max(tops[:2]) < min(tops[2:])


def test_an_answer_without_text_has_no_boxes():
    """An empty list, and the picture's size."""
    assert make().postprocess((torch.zeros(2, 16, 32),)) == {"boxes": [], "width": 64, "height": 32}


def test_a_jpeg_turned_by_its_camera_is_answered_upright():
    """Width and height are those that a viewer shows."""
    image = Image.new("RGB", (60, 20), "white")
    exif = image.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    assert make().preprocess(stream.getvalue()).note[:2] == (20, 60)
