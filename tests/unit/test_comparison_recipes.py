"""The models of the field's usual comparisons: of the published size, and built without weights only when asked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.building import ensure_archive
from tests.fakes import make_picture
from tracing import checking
from tracing.errors import BuildError, RecipeError
from tracing.loading import SHIPPED, build_model, importing_from, load_recipe
from tracing.networks.resnet import ResNet

SIZES = {"resnet50": 25_557_032, "simple_cnn": 3_181_758}
TRAIN = SHIPPED / "simple_cnn" / "train.py"


def build(name: str, weights: str = "random") -> torch.nn.Module:
    loaded = load_recipe(name, weights=weights)
    with importing_from(loaded.folder):
        return build_model(loaded)


@pytest.fixture(scope="module")
def simple_archive(tmp_path_factory) -> Path:
    """The archive of the simple network with random weights."""
    base = tmp_path_factory.mktemp("built")
    return ensure_archive("simple_cnn", store=base, build=base / "artifacts", weights="random")


@pytest.mark.parametrize("name", SIZES)
def test_it_has_the_size_that_is_compared(name):
    """To the last parameter."""
    assert sum(value.numel() for value in build(name).parameters()) == SIZES[name]


@pytest.mark.parametrize("name", SIZES)
def test_it_has_no_weights_of_its_own(name, tmp_path):
    """Nobody serves an untrained model without having said so."""
    with pytest.raises(RecipeError, match="the recipe has no weights of its own"):
        ensure_archive(name, store=tmp_path, build=tmp_path / "artifacts")


@pytest.mark.parametrize("name", SIZES)
def test_random_weights_are_the_same_on_every_build(name):
    """Two machines compare the same model."""
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_simple_network_answers_and_says_that_it_is_untrained(simple_archive, tmp_path):
    """A picture of any size, beside what is none."""
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7")
    request = SHIPPED / "simple_cnn" / "rocket.png"
    right, wrong = checking.predict(simple_archive, [(request, "image/png"), (tmp_path / "bad.pdf", "application/pdf")])
    assert (right.status, wrong.status) == (200, 415)
    assert len(json.loads(right.body)) == 5
    assert checking.read_archive_record(simple_archive).random_weights


def test_the_simple_network_takes_trained_weights(tmp_path):
    """Whose numbers it then answers with."""
    state = {name: value.half() for name, value in build("simple_cnn").state_dict().items()}
    state["head.4.bias"][7] = 30.0
    save_file(state, tmp_path / "own.safetensors")
    logits = build("simple_cnn", str(tmp_path / "own.safetensors"))(torch.zeros(1, 3, 32, 32))
    assert logits.argmax().item() == 7


def test_another_networks_checkpoint_is_refused_with_its_names(tmp_path):
    """Through the build, with the place in the recipe."""
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BuildError, match=r"build_model failed at recipe.py:\d+: .*does not fit SimpleCnn: missing: fe"):
        build("simple_cnn", str(tmp_path / "other.pth"))


def test_the_documented_recipe_for_other_classes_works(tmp_path):
    """As it stands: with a checkpoint of three classes and their names beside it."""
    text = (SHIPPED.parents[1] / "docs" / "recipes.md").read_text()
    (tmp_path / "flowers.py").write_text(text.partition("```python\n# flowers.py\n")[2].partition("```")[0])
    (tmp_path / "labels.txt").write_text("daisy\nrose\ntulip\n")
    (tmp_path / "rose.png").write_bytes(make_picture("red"))
    torch.save({"state_dict": ResNet(18, classes=3).state_dict()}, tmp_path / "flowers.pth")
    loaded = load_recipe(str(tmp_path / "flowers.py"))
    assert loaded.recipe.settings["labels"] == ["daisy", "rose", "tulip"]
    with importing_from(loaded.folder):
        assert build_model(loaded)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_training_writes_weights_that_the_recipe_takes(tmp_path):
    """One epoch over a few pictures."""
    data, output = write_pictures(tmp_path / "cifar10.npz", 64), tmp_path / "own.safetensors"
    words = [sys.executable, TRAIN, "--data", data, "--output", output, "--epochs", "1"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=120)
    assert "of 64 test pictures are right" in done.stdout, done.stderr
    assert sum(value.numel() for value in load_file(output).values()) == SIZES["simple_cnn"]
    assert build("simple_cnn", str(output))(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def write_pictures(path: Path, count: int) -> Path:
    """Write a data set of one-coloured JPEGs in the form that the training script reads."""
    jpegs = [make_picture("red", "JPEG", size=(32, 32))] * count
    content = {"classes": np.array(load_recipe("simple_cnn", weights="random").recipe.settings["labels"])}
    for split in ("train", "test"):
        content[f"{split}_jpeg"] = np.frombuffer(b"".join(jpegs), dtype=np.uint8)
        content[f"{split}_offset"] = np.cumsum([0, *map(len, jpegs)])
        content[f"{split}_label"] = np.arange(count) % 10
    np.savez(path, **content)
    return path
