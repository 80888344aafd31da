"""What a Hugging Face folder's ``config.json`` says of a BERT encoder, checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT encoder, by the names of Hugging Face's configuration; the defaults are BERT-base's."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")  # of a classifier, in the order of its outputs


def read_config(folder: Path, *, positions: int) -> BertConfig:
    """Return the configuration in ``folder``; raise ``ValueError`` for one that is no BERT of at least ``positions``.

    What the file does not name has Hugging Face's default, which is BERT-base's.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder}: there is no config.json; expected a folder as a model hub gives it")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{path} is not valid JSON: {exc}") from exc
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds a {type(given).__name__}, expected an object")
    faults = _find_faults(given)
    if faults:
        raise ValueError(f"{path}: {'; '.join(faults)}")
    known = {name: given[name] for name in (*_SIZES, "layer_norm_eps", "hidden_act") if name in given}
    config = BertConfig(**known, labels=_read_labels(given))
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"{path}: hidden_size is {config.hidden_size}, which {config.num_attention_heads} heads do not divide"
        )
    if config.max_position_embeddings < positions:
        raise ValueError(
            f"{path}: max_position_embeddings is {config.max_position_embeddings}, and the recipe compiles for "
            f"{positions} positions; give its buckets fewer"
        )
    return config


def _find_faults(given: dict[str, Any]) -> list[str]:
    """Return what is wrong with a configuration, a sentence each; Any: what its JSON holds."""
    faults = []
    if given.get("model_type") != "bert":
        faults.append(f"model_type is {given.get('model_type')!r}, expected 'bert'")
    if given.get("position_embedding_type", "absolute") != "absolute":
        faults.append(f"position_embedding_type is {given['position_embedding_type']!r}, expected 'absolute'")
    for name in _SIZES:
        value = given.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            faults.append(f"{name} is {value!r}, expected a whole number over 0")
    epsilon = given.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        faults.append(f"layer_norm_eps is {epsilon!r}, expected a number over 0 and below 1")
    labels = given.get("id2label", {})
    if not isinstance(labels, dict) or sorted(labels) != sorted(map(str, range(len(labels)))):
        faults.append(f"id2label is {str(labels)[:80]}, expected an object with the keys '0', '1' and so on")
    return faults


def _read_labels(given: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels in the order of the outputs; a file without has Hugging Face's names, two unless it says."""
    labels = given.get("id2label") or {}
    if labels:
        return tuple(str(labels[str(number)]) for number in range(len(labels)))
    return tuple(f"LABEL_{number}" for number in range(int(given.get("num_labels", 2))))
