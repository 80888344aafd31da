"""CRAFT as a network and as recipes: the published names and shapes, and words found through a packed archive."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cli.building import ensure_archive
from tests.servers import RECIPES
from tests.text_pictures import encode, find_all, make_scenes, network
from tracing import checking
from tracing.networks.checkpoints import load_weights, read_weights
from tracing.networks.craft import Craft, Widths, fold_normalisation

# craft_mlt_25k.pth of the authors' repository (clovaai/CRAFT-pytorch): each convolution with its number, input and
# output channels and side; a batch normalisation follows under the next number, except where the list says so.
BACKBONE = {
    "basenet.slice1": [(0, 3, 64), (3, 64, 64), (7, 64, 128), (10, 128, 128)],
    "basenet.slice2": [(14, 128, 256), (17, 256, 256)],
    "basenet.slice3": [(20, 256, 256), (24, 256, 512), (27, 512, 512)],
    "basenet.slice4": [(30, 512, 512), (34, 512, 512), (37, 512, 512)],
}
DECODER = {"upconv1": (1536, 512, 256), "upconv2": (768, 256, 128), "upconv3": (384, 128, 64), "upconv4": (192, 64, 32)}
PLAIN = {  # without batch normalisation: name -> weight
    "basenet.slice5.1": (1024, 512, 3, 3),
    "basenet.slice5.2": (1024, 1024, 1, 1),
    "conv_cls.0": (32, 32, 3, 3),
    "conv_cls.2": (32, 32, 3, 3),
    "conv_cls.4": (16, 32, 3, 3),
    "conv_cls.6": (16, 16, 1, 1),
    "conv_cls.8": (2, 16, 1, 1),
}
TINY = Widths(stages=(4, 4, 8, 8, 8), dilated=8, decoder=((8, 8), (8, 8), (8, 4), (4, 4)), head=(4, 4))


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the published checkpoint, by name."""
    weights = dict(PLAIN)
    norms = {}
    for name, convolutions in BACKBONE.items():
        for number, before, after in convolutions:
            weights[f"{name}.{number}"] = (after, before, 3, 3)
            norms[f"{name}.{number + 1}"] = after
    for name, (before, middle, after) in DECODER.items():
        weights |= {f"{name}.conv.0": (middle, before, 1, 1), f"{name}.conv.3": (after, middle, 3, 3)}
        norms |= {f"{name}.conv.1": middle, f"{name}.conv.4": after}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def test_names_and_shapes_are_the_published_ones():
    """All 154 tensors, 20.8 M parameters: a checkpoint of the authors' loads."""
    with torch.device("meta"):
        found = {name: tuple(value.shape) for name, value in Craft().state_dict().items()}
    assert found == published_shapes()
    assert len(found) == 154


@pytest.fixture
def tiny() -> Craft:
    """A network of a few channels whose normalisations have seen something."""
    torch.manual_seed(0)
    made = Craft(TINY).train()
    made(torch.randn(2, 3, 64, 64))
    return made.eval()


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "data parallel"])
def test_weights_load_with_and_without_a_prefix(tiny, prefix, tmp_path):
    """``module.`` is what torch.nn.DataParallel leaves in front of every name."""
    torch.save({prefix + name: value for name, value in tiny.state_dict().items()}, tmp_path / "craft.pth")
    other = Craft(TINY).eval()
    load_weights(other, read_weights(tmp_path / "craft.pth"))
    pictures = torch.randn(1, 3, 64, 96)
    assert torch.equal(other(pictures), tiny(pictures))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("upconv2.conv.3.weight"), r"missing: upconv2\.conv\.3\.weight$"),
        (lambda state: state.update(head=torch.zeros(1)), "unexpected: head$"),
        (
            lambda state: state.update({"conv_cls.8.bias": torch.zeros(3)}),
            r"of another shape: conv_cls\.8\.bias \[3\] for \[2\]",
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("basenet.slice1")],
            r"missing: basenet\.slice1\.0\.weight, .* and 21 more",
        ),
    ],
    ids=["missing", "unknown", "shape", "many"],
)
def test_a_wrong_key_is_named(tiny, change, fault):
    """The first few of each kind; no page of keys."""
    state = dict(tiny.state_dict())
    change(state)
    with pytest.raises(ValueError, match=fault):
        load_weights(Craft(TINY), state)


def test_counters_of_batches_may_be_missing(tiny):
    """They matter in training only, and the shipped weights lack them."""
    state = {name: value for name, value in tiny.state_dict().items() if not name.endswith("num_batches_tracked")}
    load_weights(Craft(TINY), state)


@pytest.mark.parametrize("size", [(64, 64), (32, 160)], ids=str)
def test_maps_have_half_the_resolution(tiny, size):
    """A region map and an affinity map, float32."""
    maps = tiny(torch.randn(2, 3, *size))
    assert maps.shape == (2, 2, size[0] // 2, size[1] // 2)
    assert maps.dtype == torch.float32


def test_folding_leaves_the_function_as_it_is(tiny):
    """Only the normalisations are gone."""
    pictures = torch.randn(1, 3, 64, 64)
    expected = tiny(pictures)
    folded = fold_normalisation(tiny)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(pictures), expected, rtol=1e-4, atol=1e-5)


def test_shipped_weights_come_back_as_they_were_written(tmp_path):
    """bf16 weights and float32 statistics; at most 3 MB."""
    shipped = RECIPES / "craft_small" / "weights.safetensors"
    loaded = network.load_network(shipped)
    network.save_network(loaded, tmp_path / "again.safetensors")
    again = network.load_network(tmp_path / "again.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in loaded.state_dict().items())
    assert shipped.stat().st_size < 3_000_000


FEWER = """
import dataclasses

recipe = dataclasses.replace(recipe, name="craft_few", buckets=[{"height": 256, "width": side} for side in (256, 384)])
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``craft_small`` for the processor, with two small buckets, which build sooner than the shipped ones."""
    base = tmp_path_factory.mktemp("craft")
    folder = Path(shutil.copytree(RECIPES / "craft_small", base / "recipe"))
    with (folder / "recipe.py").open("a") as stream:
        stream.write(FEWER)
    return ensure_archive(str(folder), store=base / "store", build=base / "build")


def test_words_are_found_through_the_packed_archive(archive, tmp_path):
    """Four of five in three pictures of other shapes and another font than in training; other files are refused."""
    scenes = make_scenes(3, seed=1, sizes=[(256, 256), (384, 256), (300, 200)])
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, scene in zip(paths, scenes, strict=True):
        path.write_bytes(encode(scene.image))
    (tmp_path / "cut.png").write_bytes(paths[0].read_bytes()[:60])
    (tmp_path / "text.png").write_bytes(b"hello")
    wrong = [(tmp_path / "cut.png", "image/png"), (tmp_path / "text.png", "image/png")]
    answers = checking.predict(archive, [*((path, "image/png") for path in paths), *wrong])
    assert [answer.status for answer in answers] == [200, 200, 200, 400, 415]
    remaining = iter(answers)
    score = find_all(scenes, lambda _: json.loads(next(remaining).body))
    assert score.words >= 10
    assert score.recall >= 0.8
