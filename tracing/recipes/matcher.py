"""Two inputs and a dictionary of outputs: how well words, as ids, match an item's features.

The smallest model of the two-tower kind that recommenders use. Its weights are random numbers from a fixed seed: it
shows how such a model is built and served, and its scores mean nothing. Words vary in number; id 0 is padding.
"""

from tracing import Input, Recipe

WORDS, FEATURES, WIDTH = 100, 4, 8  # of the vocabulary; of an item; of the space in which both meet


def build_model(checkpoint):
    import torch
    from torch import nn

    class Matcher(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(WORDS, WIDTH)
            self.features = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, WIDTH))

        def forward(self, ids, features):
            """Return float32 of shape (N,), -1 to 1, and of shape (N, 8), for (N, words) int64 and (N, 4) float32."""
            real = (ids != 0).to(torch.float32).unsqueeze(2)
            mean = (self.words(ids) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
            words = mean / (mean * mean).sum(dim=1, keepdim=True).add(1e-6).sqrt()
            item = self.features(features)
            item = item / (item * item).sum(dim=1, keepdim=True).add(1e-6).sqrt()
            return {"score": (words * item).sum(dim=1), "words": words}

    torch.manual_seed(4)
    return Matcher()


recipe = Recipe(
    name="matcher",
    description="two inputs and a dictionary of outputs; random weights, an example",
    build_model=build_model,
    inputs=[
        Input(name="ids", shape=("batch", "words"), dtype="int64", high=WORDS),
        Input(name="features", shape=("batch", FEATURES)),
    ],
    buckets=[{"words": 4}, {"words": 16}],
    batch_sizes=[1, 4],
    handler="named_tensors",
    settings={"outputs": ["score", "words"]},
    golden=["matcher_short.json", "matcher_long.json"],
)
