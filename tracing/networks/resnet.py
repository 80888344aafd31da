"""Residual networks for pictures (He et al. 2015, arXiv 1512.03385), in plain torch.

Names and shapes of the weights are those of the checkpoints that torchvision publishes for ``resnet18`` to
``resnet152``, and timm for its models of the same names. As in both, the bottleneck's stride is in its 3x3 convolution.
"""

from pathlib import Path

import torch
from torch import nn

from tracing.networks.checkpoints import load_weights, read_weights

CLASSES = 1000  # of ImageNet-1k
# Depth -> blocks in each of the four stages (table 1 of the paper); from 50 layers on they are bottlenecks.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_FIRST_BOTTLENECK = 50
_WIDTHS = (64, 128, 256, 512)  # of the four stages, before a bottleneck's expansion
_EXPANSION = 4  # of a bottleneck: its output has so many times its width
# Weight of a new residual branch's last normalisation. With 1 the values of an untrained network, whose normalisation
# has seen no pictures, grow with each block: ResNet-50's logits spread by 25, with 0.6 by 0.9. With 0 (Goyal et al.
# 2017, arXiv 1706.02677) the branches would add nothing, and a test with random weights would not see their layers.
_BRANCH = 0.6


class _Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(y + shortcut)
        return out


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, the last of which widens, beside a shortcut."""

    expansion = _EXPANSION

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * _EXPANSION, 1)
        self.bn3 = nn.BatchNorm2d(width * _EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * _EXPANSION, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(y + shortcut)
        return out


class ResNet(nn.Module):
    """What a picture shows, by a residual network of 18, 34, 50, 101 or 152 layers.

    Takes float32 of shape (N, 3, H, W), normalised pictures, usually 224 x 224; returns logits, float32 of shape
    (N, classes). New weights are random, by He's initialisation.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, depth: int = 50, *, classes: int = CLASSES) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"ResNet: depth is {depth}, expected one of {', '.join(map(str, _BLOCKS))}")
        block = _Bottleneck if depth >= _FIRST_BOTTLENECK else _Basic
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for number, (blocks, width) in enumerate(zip(_BLOCKS[depth], _WIDTHS, strict=True), start=1):
            stage = _stage(block, blocks, channels, width, stride=1 if number == 1 else 2)
            setattr(self, f"layer{number}", stage)
            channels = width * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        self.apply(_initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build_resnet(checkpoint: Path | None, depth: int = 50) -> ResNet:
    """Return the network with a checkpoint's weights and as many classes as these have, or with random ones if None.

    Random ones are the same each time. Raises ``ValueError`` that says how the checkpoint differs.
    """
    if checkpoint is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ResNet(depth)
    weights = read_weights(checkpoint)
    bias = weights.get("fc.bias")
    network = ResNet(depth, classes=len(bias) if bias is not None else CLASSES)
    load_weights(network, weights)
    return network


def _stage(block: type[_Basic] | type[_Bottleneck], blocks: int, channels: int, width: int, stride: int) -> nn.Module:
    layers: list[nn.Module] = [block(channels, width, stride)]
    layers += [block(width * block.expansion, width, 1) for _ in range(1, blocks)]
    return nn.Sequential(*layers)


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """Return what makes a block's input as large as its output, None where it is already."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(_conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, _Basic):
        nn.init.constant_(module.bn2.weight, _BRANCH)
    elif isinstance(module, _Bottleneck):
        nn.init.constant_(module.bn3.weight, _BRANCH)
