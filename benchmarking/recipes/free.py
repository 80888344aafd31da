"""A model that costs next to nothing: what a request costs beside its model. The rest of the job is resnet20's.

make bench MODEL=benchmarking/recipes/free.py
"""

from tracing import Input, Recipe


def build_model(checkpoint):
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 10))


recipe = Recipe(
    name="free",
    description="32x32 pictures, the mean of each channel: a model that is nearly free",
    build_model=build_model,
    inputs=[Input(name="image", shape=("batch", 3, 32, 32))],
    batch_sizes=[1, 2, 4, 8],
    handler="image_classifier",
    settings={
        "labels": [f"class_{number}" for number in range(10)],
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    },
    golden=["sand.png", "waves.png"],
)
