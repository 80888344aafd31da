"""Words in pictures of any size: a CRAFT with a quarter of the channels, trained on rendered text (MODEL_CARD.md)."""

from tracing import Input, Recipe, Tolerances


def build_model(checkpoint):
    from network import load_network

    from tracing.networks.craft import fold_normalisation

    return fold_normalisation(load_network(checkpoint))


recipe = Recipe(
    name="craft_small",
    description="words in pictures of any size, a small CRAFT (1.3 M parameters)",
    build_model=build_model,
    checkpoint="weights.safetensors",
    inputs=[Input(name="picture", shape=("batch", 3, "height", "width"))],
    # Each is compiled. Larger pictures are scaled down.
    buckets=[
        {"height": 256, "width": 256},
        {"height": 256, "width": 512},
        {"height": 512, "width": 256},
        {"height": 512, "width": 512},
    ],
    batch_sizes=[1],
    handler="text_detector",
    # Chosen on 50 pictures in the validation font (MODEL_CARD.md): the published 0.4 joins more of the small words.
    settings={"text_threshold": 0.6, "low_text": 0.5, "link_threshold": 0.5, "smallest_area": 6},
    # Corners of boxes are compared, in pixels: a map's pixel at a threshold moves them by two of the picture's.
    tolerances=Tolerances(top1=0.0, golden=4.0),
    chip_tolerances=Tolerances(absolute=0.05, relative=0.05, cosine=0.999, top1=0.0, golden=8.0),
    golden=["sign.png", "tall.png", "note.jpg"],
)
