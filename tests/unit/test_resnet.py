"""Residual networks take the checkpoints that people have, and say what is wrong with others."""

import argparse
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tracing.networks.checkpoints import load_weights, read_weights
from tracing.networks.resnet import ResNet, build_resnet


@pytest.fixture(scope="module")
def small() -> ResNet:
    """The smallest network, for seven classes, with statistics as after training."""
    torch.manual_seed(1)
    network = ResNet(18, classes=7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.9, 1.1)
    return network.eval()


# The published counts, of torchvision's documentation.
@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_each_depth_has_the_published_number_of_parameters(depth, parameters):
    """Nothing is left out and nothing is added."""
    with torch.device("meta"):
        assert sum(value.numel() for value in ResNet(depth).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1.weight", (64, 3, 7, 7)),
        ("bn1.running_var", (64,)),
        ("layer1.0.conv1.weight", (64, 64, 1, 1)),
        ("layer1.0.downsample.0.weight", (256, 64, 1, 1)),
        ("layer1.0.downsample.1.bias", (256,)),
        ("layer2.0.conv2.weight", (128, 128, 3, 3)),
        ("layer3.5.bn3.num_batches_tracked", ()),
        ("layer4.2.conv3.weight", (2048, 512, 1, 1)),
        ("fc.weight", (1000, 2048)),
        ("fc.bias", (1000,)),
    ],
)
def test_the_weights_have_the_names_of_published_checkpoints(name, shape):
    """Those of torchvision's resnet50 and timm's, of which these are the first, last and special ones."""
    with torch.device("meta"):
        state = ResNet(50).state_dict()
    assert len(state) == 320
    assert state[name].shape == shape


@pytest.mark.parametrize(("depth", "strides"), [(18, "layer2.0.conv1"), (50, "layer2.0.conv2")])
def test_a_stage_halves_the_picture_in_its_3x3_convolution(depth, strides):
    """Not in a bottleneck's first one, which would have the same names and other numbers."""
    with torch.device("meta"):
        modules = dict(ResNet(depth).named_modules())
    assert modules[strides].kernel_size == (3, 3)
    assert modules[strides].stride == (2, 2)


def test_the_picture_is_halved_five_times():
    """224 pixels give a map of 7, any other size a map of its own, and the answer has the classes."""
    network = ResNet(18, classes=3).eval()
    maps = []
    network.avgpool.register_forward_pre_hook(lambda module, inputs: maps.append(tuple(inputs[0].shape)))
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 3)
    assert maps == [(1, 512, 7, 7), (2, 512, 2, 3)]


WRAPPERS = {
    "bare": lambda state: state,
    "ordered": OrderedDict,
    "reference script": lambda state: {
        "model": state,
        "optimizer": {},
        "epoch": 90,
        "args": argparse.Namespace(lr=0.1),
    },
    "lightning": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "data parallel": lambda state: {"arch": "x", "state_dict": {f"module.{name}": v for name, v in state.items()}},
    "averaged": lambda state: {
        "model": {name: torch.zeros_like(value) for name, value in state.items()},
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in state.items()}},
    },
    "timm averaged": lambda state: {
        "state_dict": {name: torch.zeros_like(value) for name, value in state.items()},
        "state_dict_ema": state,
    },
    "compiled": lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
    "no counters": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
    "half": lambda state: {name: v.half() if v.is_floating_point() else v for name, v in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_checkpoint_is_found_in_what_training_scripts_save(small, tmp_path, wrapper):
    """Bare or wrapped, with or without a prefix, and with as many classes as it has."""
    torch.save(WRAPPERS[wrapper](small.state_dict()), tmp_path / "weights.pth")
    network = build_resnet(tmp_path / "weights.pth", 18)
    tolerance = 1e-3 if wrapper == "half" else 0.0
    assert network.fc.out_features == 7
    for name, value in network.state_dict().items():
        assert value.dtype == small.state_dict()[name].dtype
        assert torch.allclose(value, small.state_dict()[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.safetensors", "hub"])
def test_safetensors_and_folders_are_read(small, tmp_path, name):
    """A file by its ending; in a folder, the one that hubs write, beside whatever else is there."""
    file = tmp_path / ("hub/model.safetensors" if name == "hub" else name)
    file.parent.mkdir(exist_ok=True)
    save_file(small.state_dict(), file)
    if name == "hub":
        (tmp_path / "hub" / "config.json").write_text("{}")
        (tmp_path / "hub" / "pytorch_model.bin").write_text("is not looked at")
    network = build_resnet(tmp_path / "hub" if name == "hub" else file, 18)
    assert torch.equal(network.fc.weight, small.fc.weight)


def test_a_loaded_network_answers_as_the_one_that_was_saved(small, tmp_path):
    """All of it is taken over, the statistics of the normalisation included."""
    torch.save(small.state_dict(), tmp_path / "weights.pt")
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(build_resnet(tmp_path / "weights.pt", 18).eval()(picture), small(picture))


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone():
    """Whoever builds it next gets the same numbers, and the caller's own random numbers are not disturbed."""
    state = torch.random.get_rng_state()
    first, second = build_resnet(None, 18), build_resnet(None, 18)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_random_weights_give_numbers_that_a_chip_can_be_compared_on():
    """Of a trained network's size, where a plain initialisation would give logits over 100."""
    picture = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = build_resnet(None).eval()(picture)
    assert 0.3 < logits.std() < 3
    assert logits.abs().max() < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bn1.bias"), r"does not fit ResNet: missing: bn1.bias$"),
        (lambda s: s.update({"head.weight": torch.zeros(1)}), r"unexpected: head.weight$"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
            r"conv1.weight \[64, 3, 3, 3\] for \[64, 3, 7, 7\]$",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("layer4")],
            r"missing: layer4.0.conv1.weight, layer4.0.bn1.weight, layer4.0.bn1.bias and 22 more$",
        ),
        (lambda s: [s.pop("fc.bias"), s.update({"extra": torch.zeros(1)})], r"missing: fc.bias; unexpected: extra"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(small, tmp_path, change, message):
    """With the first names of each kind and how many more there are."""
    state = dict(small.state_dict())
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        build_resnet(tmp_path / "weights.pth", 18)


def test_a_checkpoint_of_another_depth_does_not_fit(small, tmp_path):
    """Its names and shapes are those of another network."""
    torch.save(small.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"missing: layer1.0.conv3.weight.* more; of another shape: layer1.0.conv1"):
        build_resnet(tmp_path / "weights.pth", 50)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, r"weights.pth: found a dictionary with epoch, expected a state_dict"),
        ([1, 2], r"found a list, expected a state_dict"),
        ({}, "found a dictionary with nothing"),
        (nn.Linear(1, 1), r"cannot be read as weights \(.*expected tensors only, as torch.save"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, content, message):
    """A whole model, which would run code, too."""
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "cannot be read as weights"),
        ("a.pth", b"<html>not found</html>", "cannot be read as weights"),
        ("a.safetensors", b"<html>", "is no safetensors file"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, name, content, message):
    """A download that failed, for one."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / name)


def test_a_folder_without_or_with_several_checkpoints_is_refused(tmp_path):
    """Which one is meant is not guessed."""
    with pytest.raises(ValueError, match="one file with weights, found none; name one"):
        read_weights(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save({"weight": torch.ones(1)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"found a.pth, b.pth; name one"):
        read_weights(tmp_path)


def test_weights_fit_any_module():
    """The reader and the loader know nothing of residual networks."""
    layer = nn.Linear(2, 1)
    load_weights(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    assert layer(torch.ones(1, 2)).item() == 2


def test_an_unknown_depth_is_refused():
    """With those there are."""
    with pytest.raises(ValueError, match="depth is 42, expected one of 18, 34, 50, 101, 152"):
        ResNet(42)
