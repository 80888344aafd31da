"""A plain convolutional network for 32x32 pictures: the smallest model of the field's usual comparisons.

make serve MODEL=simple_cnn WEIGHTS=random                      (untrained, and marked so)
make serve MODEL=simple_cnn WEIGHTS=simple_cnn.safetensors      (as train.py beside this file writes them)
"""

from tracing import NEEDED, Input, Recipe


def build_model(checkpoint):
    import torch
    from network import SimpleCnn

    from tracing.networks.checkpoints import load_weights, read_weights

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same ones each time
        network = SimpleCnn()
    if checkpoint is not None:
        load_weights(network, read_weights(checkpoint))
    return network


recipe = Recipe(
    name="simple_cnn",
    description="32x32 pictures in ten classes, three convolutions (3.2 M parameters)",
    build_model=build_model,
    checkpoint=NEEDED,
    inputs=[Input(name="image", shape=("batch", 3, 32, 32))],
    batch_sizes=[1, 2, 4, 8],
    handler="image_classifier",
    settings={
        "labels": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        # Of CIFAR-10's training images; train.py normalises by the same figures.
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    },
    golden=["cat_grey.png", "rocket.png"],
)
