"""Which dimensions of outputs follow those of inputs."""

import pytest
import torch

from handlers.artifact import Crop
from tracing import Input, Recipe
from tracing.cropping import find_crops

TOKENS = Input(name="tokens", shape=("batch", "sequence"), dtype="int64")
PICTURE = Input(name="picture", shape=("batch", 3, "height", "width"))
LENGTHS = [{"sequence": 8}, {"sequence": 16}]
SIZES = [{"height": 32, "width": 32}, {"height": 64, "width": 64}]


class Model(torch.nn.Module):
    """A module out of a function."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def find(function, inputs, buckets):
    """Return the crops of a function's outputs."""
    recipe = Recipe(
        name="x", build_model=lambda _: None, inputs=inputs, handler="", golden=(), buckets=buckets, batch_sizes=(1,)
    )
    return find_crops(Model(function), recipe)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.float(), (Crop(0, 0, 0, 0, 1, 1),)),
        (lambda x: x.sum(1), ()),
        (lambda x: (x.sum(1), x[:, None, ::2]), (Crop(1, 1, 0, 0, 1, 2),)),
        (lambda x: {"scores": torch.zeros(len(x), x.shape[1], 8)}, (Crop(0, 0, 0, 0, 1, 1),)),
        (lambda x: torch.zeros(len(x), x.shape[1] + 1), ()),
    ],
)
def test_dimensions_in_proportion_to_the_length(function, expected):
    """Per-token outputs are cropped; sums, fixed sizes (8 as well) and what is one longer are not."""
    assert find(function, [TOKENS], LENGTHS) == expected


def test_height_and_width_are_told_apart_where_all_buckets_are_square():
    """Each is varied by itself; a map at half the resolution, transposed."""
    found = find(lambda x: torch.nn.functional.max_pool2d(x, 2).transpose(2, 3), [PICTURE], SIZES)
    assert found == (Crop(0, 1, 0, 2, 1, 2), Crop(0, 2, 0, 1, 1, 2))


def test_a_flattened_map_is_left_alone():
    """It follows two dimensions at once."""
    assert find(lambda x: x.flatten(2), [PICTURE], SIZES) == ()


def test_a_lone_bucket_is_tried_at_half_its_size():
    """There is no other to compare with."""
    assert find(lambda x: x.float(), [TOKENS], LENGTHS[:1]) == (Crop(0, 0, 0, 0, 1, 1),)


def test_a_model_that_runs_at_no_other_size_has_no_crops():
    """Its outputs stay as they are."""

    def fixed(x):
        return x + torch.zeros(8)

    assert find(fixed, [TOKENS], LENGTHS[:1]) == ()
