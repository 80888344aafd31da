"""The network of the shipped CIFAR-10 classifier: a compact residual network for 32x32 pictures."""

import torch
from torch import nn


def _conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU: the one shape that every compiler fuses into one kernel."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _pool_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """A convolution block that halves height and width; pooled before it is normalised, on a quarter of the values."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """The input plus a stack of convolution blocks over it, shape unchanged."""

    def __init__(self, channels: int, *, depth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*[_conv_block(channels, channels) for _ in range(depth)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class CompactResNet(nn.Module):
    """A residual network of 1.2 M parameters and 95 M multiply-adds for ten classes.

    Takes float32 of shape (N, 3, 32, 32), normalised per channel; returns logits, float32 of shape (N, 10).
    """

    # Keeps the logits of an untrained network small, so that a high learning rate is stable from the first step.
    _LOGIT_SCALE = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv_block(3, 24),
            _pool_block(24, 64),
            _Residual(64, depth=2),
            _pool_block(64, 128),
            _Residual(128, depth=2),
            _pool_block(128, 224),
            _Residual(224, depth=1),
            nn.MaxPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(224, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x)) * self._LOGIT_SCALE
        return logits


class MirrorAveraged(nn.Module):
    """The mean of a network's logits for a picture and for its mirror image: more accurate, for twice the work.

    Takes and returns what the network does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(torch.cat([x, x.flip(3)]))
        return torch.stack(logits.chunk(2)).mean(0)
