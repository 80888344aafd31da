"""CIFAR-10: which of ten classes a picture of any size shows, by a compact residual network (MODEL_CARD.md)."""

from tracing import Input, Recipe


def build_model(checkpoint):
    from network import CompactResNet, MirrorAveraged
    from safetensors.torch import load_file

    network = CompactResNet()
    weights = {name: value.float() for name, value in load_file(checkpoint).items()}
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **weights})  # the counters matter in training only, the file lacks them
    return MirrorAveraged(network)


recipe = Recipe(
    name="cifar10",
    description="32x32 pictures in ten classes, compact residual network",
    build_model=build_model,
    checkpoint="weights.safetensors",
    inputs=[Input(name="image", shape=("batch", 3, 32, 32))],
    batch_sizes=[1, 2, 4, 8],
    handler="image_classifier",
    settings={
        "labels": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        # Of the training images; train.py normalises by the same figures.
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    },
    golden=["cat.png", "cat_grey.png", "coffee.gif", "rocket.png"],
)
