"""The reference job of the benchmark: a 32x32 picture through the ResNet-20 of the CIFAR experiments.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", section 4.2: n = 3, 0.27 million parameters,
41 million multiply-adds. Untrained, from a fixed seed: what it answers means nothing, what it costs is the same.

make bench MODEL=benchmarking/recipes/resnet20.py
"""

from job import JOB

from tracing import Recipe

_STAGES = ((16, 1), (32, 2), (64, 2))  # channels, and the stride of the first block
_BLOCKS = 3  # of each stage; the paper's n


def build_model(checkpoint):
    import torch
    from torch import nn

    class Block(nn.Module):
        """Two 3x3 convolutions beside a shortcut without parameters (option A of the paper)."""

        def __init__(self, inputs, channels, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.stride, self.missing = stride, channels - inputs

        def forward(self, x):
            shortcut = x
            if self.missing:
                shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
            return torch.relu(self.body(x) + shortcut)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers, inputs = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
        for channels, stride in _STAGES:
            for number in range(_BLOCKS):
                layers.append(Block(inputs, channels, stride if number == 0 else 1))
                inputs = channels
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


recipe = Recipe(
    name="resnet20",
    description="32x32 pictures through an untrained ResNet-20: the benchmark's reference job",
    build_model=build_model,
    **JOB,
)
