"""BERT-base for labels of a text or a pair of texts, from a Hugging Face folder that the user gives.

    make serve MODEL=bert WEIGHTS=bert-base-cased-finetuned-mrpc     (config.json, model.safetensors, tokenizer.json)
    make serve MODEL=bert WEIGHTS=random                             (untrained, and marked so: speed and sizes alike)

The labels are those in the folder's config.json. A folder without tokenizer.json, from before that file, gets one by
``AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`` of transformers.
"""

from tracing import NEEDED, Input, Recipe, Tolerances

_LONGEST = 128  # tokens: what AWS's tutorials and comparisons compile BERT for


def build_model(checkpoint):
    from tracing.networks.bert import build_classifier

    return build_classifier(checkpoint, positions=_LONGEST)


def find_texts(checkpoint):
    """Return tokenizer and labels of the user's folder; a random network has the tokenizer beside this file."""
    return ["tokenizer.json"] if checkpoint is None else [checkpoint / "tokenizer.json", checkpoint / "config.json"]


recipe = Recipe(
    name="bert",
    description="labels of a text or a pair of up to 128 tokens, BERT-base (109 M)",
    build_model=build_model,
    checkpoint=NEEDED,
    extra_files=find_texts,
    requirements=("tokenizers==0.23.3",),
    inputs=[
        # Below the vocabulary of every published BERT, the smallest of which has 21128 words, and of the random one.
        Input(name="input_ids", shape=("batch", "sequence"), dtype="int64", high=300),
        Input(name="attention_mask", shape=("batch", "sequence"), dtype="int64", high=2),
        Input(name="token_type_ids", shape=("batch", "sequence"), dtype="int64", high=2),
    ],
    buckets=[{"sequence": _LONGEST}],
    # 6 is the batch of AWS's tutorials on inf1; 1 is for a lone client. Each size costs a chip a copy of the weights.
    batch_sizes=[1, 6],
    handler="text_classifier",
    settings={"truncate": True},  # as AWS's tutorial has it; the answer then says so
    golden=["pair.json", "review.txt"],
    # bf16 moves the logits of a random network, which lie close to each other, past one another.
    chip_tolerances=Tolerances(absolute=0.05, relative=0.05, cosine=0.995, top1=0.9, golden=0.05),
    response_timeout_s=300,
)
