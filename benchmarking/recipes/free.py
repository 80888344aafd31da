"""A model that costs next to nothing: what a request costs beside its model. The rest of the job is resnet20's.

make bench MODEL=benchmarking/recipes/free.py
"""

from job import JOB

from tracing import Recipe


def build_model(checkpoint):
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 10))


recipe = Recipe(
    name="free",
    description="32x32 pictures, the mean of each channel: a model that is nearly free",
    build_model=build_model,
    **JOB,
)
