"""A plain function as a model: two distances between two vectors. Nothing is trained, and nothing is loaded."""

from tracing import Input, Recipe


def build_model(checkpoint):
    def measure(a, b):
        """Return squared Euclidean and cosine distance, float32 of shape (N,), of vectors of shape (N, 16)."""
        difference, product = a - b, (a * b).sum(dim=1)
        # A vector of zeros has no direction; the small number keeps it from being divided by.
        lengths = (((a * a).sum(dim=1) + 1e-12) * ((b * b).sum(dim=1) + 1e-12)).sqrt()
        return {"squared_euclidean": (difference * difference).sum(dim=1), "cosine": 1 - product / lengths}

    return measure


recipe = Recipe(
    name="distance",
    description="a function as a model: two distances between two vectors",
    build_model=build_model,
    inputs=[Input(name="a", shape=("batch", 16)), Input(name="b", shape=("batch", 16))],
    batch_sizes=[1, 4],
    handler="named_tensors",
    settings={"outputs": ["squared_euclidean", "cosine"]},
    golden=["distance_equal.json", "distance_apart.json"],
)
