"""Tokens as the features of a text, for explanations."""

from typing import Any, Dict, Sequence

import numpy as np

from handlers.features import Explanation, Features
from handlers.texts import Tokens


def token_features(tokens: Tokens, names: Sequence[str]) -> Features:
    """Return each token of a text as a feature; those that the tokenizer added belong to none.

    ``names`` are the model's inputs. A token that is left out is taken out of the attention mask, where padding is: no
    other token sees it, nor does pooling over the mask, and the others keep their places. The vocabulary's [MASK] in
    its stead would say "some word here", which encoders of sentences were not trained on: with all-MiniLM-L6-v2 it
    moves an embedding's cosine by 0.11 where it hides "on" in a sentence of 12 tokens, the mask by 0.006.
    """
    own = np.cumsum([not each for each in tokens.special]) - 1
    groups = np.where(np.array(tokens.special), -1, own)
    untouched = np.full_like(groups, -1)
    return Features(
        groups=tuple(groups if name == "attention_mask" else untouched for name in names),
        baselines=tuple(0 for _ in names),
        names=tuple(word for word, special in zip(tokens.words, tokens.special) if not special),
        note=bool(tokens.cut),
    )


def present_tokens(explanation: Explanation, features: Features) -> Dict[str, Any]:
    """Return an explanation with ``tokens``: ``{"token", "weight", "error"}`` each, in the text's order.

    ``"truncated": true`` says that the text had more of them than the model takes.
    """
    weights = [{"token": name, **each} for name, each in zip(features.names, explanation.weights())]
    answer = {**explanation.describe(), "tokens": weights}
    return {**answer, "truncated": True} if features.note else answer
