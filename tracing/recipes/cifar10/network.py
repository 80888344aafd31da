"""The network of the shipped CIFAR-10 classifier: a compact residual network for 32x32 pictures."""

import torch
from torch import nn


def _conv_block(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU: the one shape that every compiler fuses into one kernel."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
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
    """A residual network of 1.3 M parameters and 76 M multiply-adds for ten classes.

    Takes float32 of shape (N, 3, 32, 32), normalised per channel; returns logits, float32 of shape (N, 10).
    """

    # Keeps the logits of an untrained network small, so that a high learning rate is stable from the first step.
    _LOGIT_SCALE = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv_block(3, 32),
            _conv_block(32, 64, stride=2),
            _Residual(64, depth=2),
            _conv_block(64, 128, stride=2),
            _Residual(128, depth=2),
            _Residual(128, depth=2),
            _conv_block(128, 192, stride=2),
            _Residual(192, depth=1),
            nn.MaxPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(192, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x)) * self._LOGIT_SCALE
        return logits
