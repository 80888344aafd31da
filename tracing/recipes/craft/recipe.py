"""CRAFT: where the words of a picture are, by the published network; its weights are given by the user.

make serve MODEL=craft WEIGHTS=craft_mlt_25k.pth
"""

from tracing import NEEDED, Input, Recipe, Tolerances


def build_model(checkpoint):
    from tracing.networks.checkpoints import load_weights, read_weights
    from tracing.networks.craft import Craft, fold_normalisation

    network = Craft()
    if checkpoint is not None:
        load_weights(network, read_weights(checkpoint))
    return fold_normalisation(network)


recipe = Recipe(
    name="craft",
    description="words in pictures of any size, the published CRAFT (20.8 M parameters)",
    build_model=build_model,
    checkpoint=NEEDED,
    inputs=[Input(name="picture", shape=("batch", 3, "height", "width"))],
    # Each is compiled and verified, a minute or two on one core. Larger pictures are scaled down.
    buckets=[
        {"height": 256, "width": 256},
        {"height": 512, "width": 512},
        {"height": 512, "width": 768},
        {"height": 768, "width": 512},
    ],
    batch_sizes=[1],
    handler="text_detector",
    # Corners of boxes are compared, in pixels: a map's pixel at a threshold moves them by two of the picture's.
    tolerances=Tolerances(top1=0.0, golden=4.0),
    chip_tolerances=Tolerances(absolute=0.05, relative=0.05, cosine=0.999, top1=0.0, golden=8.0),
    golden=["sign.png"],
    response_timeout_s=300,
)
