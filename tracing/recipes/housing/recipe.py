"""California housing: the median house value of a census block group, by an ensemble of perceptrons (MODEL_CARD.md)."""

from columns import SETTINGS

from tracing import Input, Recipe, Tolerances


def build_model(checkpoint):
    from network import Ensemble
    from safetensors.torch import load_file

    weights = {name: value.float() for name, value in load_file(checkpoint).items()}
    networks, inputs, hidden = weights["first.weight"].shape
    model = Ensemble(networks, inputs, hidden)
    model.load_state_dict(weights)
    return model


recipe = Recipe(
    name="housing",
    description="house values of California from a table's row, ensemble of perceptrons",
    build_model=build_model,
    checkpoint="weights.safetensors",
    inputs=[Input(name="row", shape=("batch", 46))],
    batch_sizes=[1, 8, 32],
    handler="tabular_regressor",
    settings=SETTINGS,
    # In dollars, of a value of up to 500,001: an output that is 0.01 off is a price that is 0.6 % off.
    tolerances=Tolerances(golden=50),
    chip_tolerances=Tolerances(absolute=0.05, relative=0.05, cosine=0.999, top1=0.99, golden=5_000),
    golden=["one.json", "many.csv", "missing.json"],
)
