"""CRAFT, the character region awareness text detector (Baek et al. 2019, arXiv 1904.01941), in plain torch.

Names and shapes of the weights are those of the authors' published checkpoints (``craft_mlt_25k.pth``): VGG-16 with
batch normalisation, cut into slices, under torchvision's layer numbers, and a decoder of four steps.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

# VGG-16's convolutions by stage; "M" is a pooling of 2 (Simonyan and Zisserman 2014, column D). The third convolution
# of the last stage is not used by CRAFT.
_STAGES = (2, 2, 3, 3, 2)


@dataclass(frozen=True)
class Widths:
    """How many channels each part of the network has; the defaults are the published ones."""

    stages: tuple[int, ...] = (64, 128, 256, 512, 512)  # of the five stages of VGG-16
    dilated: int = 1024  # of the two convolutions after them
    # Of each step of the decoder: after its 1x1 convolution and after its 3x3 convolution.
    decoder: tuple[tuple[int, int], ...] = ((512, 256), (256, 128), (128, 64), (64, 32))
    head: tuple[int, int] = (32, 16)  # of the convolutions that make the maps


class Craft(nn.Module):
    """Where the characters of a picture are, and which of them belong together.

    Takes float32 of shape (N, 3, H, W), normalised pictures, H and W multiples of 32. Returns float32 of shape
    (N, 2, H / 2, W / 2): the region map (how near a pixel is to a character's centre) and the affinity map (to the
    middle between two characters of a word), each about 0 to 1.
    """

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        widths = widths or Widths()
        _, second, third, fourth, fifth = widths.stages
        one, two, three, four = widths.decoder
        self.basenet = _Backbone(widths)
        self.upconv1 = _Up(widths.dilated + fifth, *one)
        self.upconv2 = _Up(one[1] + fourth, *two)
        self.upconv3 = _Up(two[1] + third, *three)
        self.upconv4 = _Up(three[1] + second, *four)
        wide, narrow = widths.head
        self.conv_cls = nn.Sequential(
            nn.Conv2d(four[1], wide, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(wide, narrow, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, 2, 1),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        half, quarter, eighth, sixteenth, deepest = self.basenet(pictures)
        merged = self.upconv1(torch.cat([deepest, sixteenth], dim=1))
        for skip, step in ((eighth, self.upconv2), (quarter, self.upconv3), (half, self.upconv4)):
            merged = step(torch.cat([_double(merged), skip], dim=1))
        maps: torch.Tensor = self.conv_cls(merged)
        return maps


class _Backbone(nn.Module):
    """VGG-16 up to its twelfth convolution, then a dilated convolution: maps at 1/2, 1/4, 1/8, 1/16 and 1/16."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        layers = _vgg_layers(widths.stages)
        self.slice1 = _cut(layers, 0, 11)
        self.slice2 = _cut(layers, 12, 18)
        self.slice3 = _cut(layers, 19, 28)
        self.slice4 = _cut(layers, 29, 38)
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(widths.stages[-1], widths.dilated, 3, padding=6, dilation=6),
            nn.Conv2d(widths.dilated, widths.dilated, 1),
        )

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        half = self.slice1(pictures)
        quarter = self.slice2(half)
        eighth = self.slice3(quarter)
        sixteenth = self.slice4(eighth)
        # The published network rectifies the first three in place, in the slice that follows: its decoder sees them
        # rectified, and the fourth, which no slice follows that begins with a rectifier, as it is.
        return F.relu(half), F.relu(quarter), F.relu(eighth), sixteenth, self.slice5(sixteenth)


class _Up(nn.Module):
    """One step of the decoder: a 1x1 convolution that mixes what was put together, then one of 3x3."""

    def __init__(self, before: int, middle: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(merged)
        return result


def _double(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


def _vgg_layers(stages: Sequence[int]) -> list[nn.Module]:
    """Return VGG-16's layers with batch normalisation in torchvision's order, so that an index is their number."""
    layers: list[nn.Module] = []
    before = 3
    for count, width in zip(_STAGES, stages, strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _cut(layers: Sequence[nn.Module], first: int, last: int) -> nn.Sequential:
    """Return the layers ``first`` to ``last`` under their numbers, which are names in the published weights."""
    return nn.Sequential(OrderedDict((str(number), layers[number]) for number in range(first, last + 1)))


def fold_normalisation(network: nn.Module) -> nn.Module:
    """Return the network with each batch normalisation folded into the convolution before it, ready to compile.

    The same function of its inputs with a third fewer operations, and less to round where all is computed in bf16. The
    network itself is changed.
    """
    network.eval()
    for stack in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for (name, one), (other_name, other) in pairwise(list(stack.named_children())):
            if isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d):
                setattr(stack, name, fuse_conv_bn_eval(one, other))
                setattr(stack, other_name, nn.Identity())
    return network
