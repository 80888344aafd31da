"""The smallest example: tells which of red, green and blue a picture has most of. Builds in seconds."""

from tracing import Input, Recipe


def build_model(checkpoint):
    import torch

    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))
    model[2].weight.data = 10 * torch.eye(3)  # nothing to train: the mean of each channel is its score
    return model


recipe = Recipe(
    name="tiny",
    description="red, green or blue: the smallest example",
    build_model=build_model,
    inputs=[Input(name="image", shape=("batch", 3, 8, 8))],
    batch_sizes=[1, 4],
    handler="image_classifier",
    settings={"labels": ["red", "green", "blue"]},
    golden=["tiny_red.png", "tiny_green.png", "tiny_blue.png"],
)
