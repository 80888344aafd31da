"""The contract of shipped recipes: whole, without faults, and built from the files that are there."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fakes import COLOURS
from tracing import loading
from tracing.compiling import generate_inputs
from tracing.recipe import handler_path, tensor_specs

SHIPPED = loading.list_recipes()


@pytest.fixture(params=SHIPPED)
def shipped(request):
    """Each shipped recipe in turn."""
    return loading.load_recipe(request.param)


@pytest.fixture(params=["cifar10", "tiny"])
def classifier(request):
    """Each trained image classifier in turn."""
    return loading.load_recipe(request.param)


def test_it_has_no_faults_and_is_named_as_it_is_found(shipped):
    """Loading checks it; MODEL=name gives name.mar."""
    assert shipped.recipe.name in SHIPPED
    assert shipped.file == loading.find_recipe(shipped.recipe.name)


def test_it_describes_itself(shipped):
    """In one line, for the list of recipes."""
    assert 10 < len(shipped.recipe.description) < 80
    assert "\n" not in shipped.recipe.description


def test_its_model_runs_at_every_batch_size(classifier):
    """And gives as many numbers as it has labels."""
    with loading.importing_from(classifier.folder):
        model = loading.build_model(classifier)
    for size in classifier.recipe.batch_sizes:
        with torch.inference_mode():
            output = model(*generate_inputs(classifier.recipe.inputs, size, seed=0))
        assert output.shape == (size, len(classifier.recipe.settings["labels"]))


def test_its_golden_requests_are_right(classifier):
    """Each picture is named after what it shows, where its name is a label."""
    module, _, name = handler_path(classifier.recipe.handler).partition(":")
    kind = getattr(__import__(module, fromlist=[name]), name)
    handler = kind(dict(classifier.recipe.settings), [tensor_specs(classifier.recipe.inputs, 1)])
    with loading.importing_from(classifier.folder):
        model = loading.build_model(classifier)
    compared = 0
    for path in classifier.recipe.golden:
        sample = handler.preprocess((classifier.folder / path).read_bytes())
        with torch.inference_mode():
            outputs = handler.activate((model(*handler.collate([sample])),))
        answer = handler.postprocess((outputs[0][0],))
        expected = [label for label in classifier.recipe.settings["labels"] if label in str(path)]
        if expected:
            compared += 1
            assert next(iter(answer)) == expected[0], path
    assert compared >= 1


def test_the_tiny_pictures_show_the_colours_they_are_named_after():
    """Mostly red, green and blue."""
    folder = loading.SHIPPED
    for colour, value in COLOURS.items():
        pixels = np.asarray(Image.open(folder / f"tiny_{colour}.png").convert("RGB")).mean(axis=(0, 1))
        assert pixels.argmax() == value.index(255)
