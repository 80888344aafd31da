"""A plain convolutional network of 3.2 M parameters, as introductions to Inferentia compare chips with."""

import torch
from torch import nn

_WIDTHS = (32, 64, 128)  # of the three stages, each of which halves height and width
_HIDDEN = 1500


class SimpleCnn(nn.Module):
    """Three convolutions and two linear layers, 3.18 M parameters, without normalisation or shortcuts.

    Takes float32 of shape (N, 3, 32, 32), normalised pictures; returns logits, float32 of shape (N, classes).
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 4 * 4, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(_HIDDEN, classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits
