"""Texts explained: a weight for each token, pairs, cut texts; through handlers with a real tokenizer."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.cores import Lease
from handlers.errors import BadRequest
from handlers.explaining import explain_payload
from handlers.text_classifier import TextClassifier
from handlers.text_embedder import TextEmbedder
from handlers.texts import Tokens
from handlers.token_features import token_features
from handlers.worker import Bucket, Worker
from tests.forging import make_record

pytest.importorskip("tokenizers", reason="texts need the package tokenizers: pip install tokenizers")
VOCABULARY = ["[UNK]", "[CLS]", "[SEP]", "good", "bad", "a", "film", "movie", "dog"]
# Of each word: good or bad, film, dog.
MEANINGS = torch.tensor(
    [[0, 0, 0], [0, 0, 0], [0, 0, 0], [3, 0, 0], [-3, 0, 0], [0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2]],
    dtype=torch.float32,
)


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of whole words and return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def sum_words(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
    """Return the sum of the meanings that the mask lets through, and a constant: a bag of words."""
    found = (MEANINGS[ids] * mask.unsqueeze(2)).sum(dim=1)
    return (torch.cat([found, torch.ones(len(found), 1)], dim=1),)


def classify(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
    return (torch.stack([-sum_words(ids, mask)[0][:, 0], sum_words(ids, mask)[0][:, 0]], dim=1),)


def make_worker(kind: type, run, folder: Path, **settings) -> Worker:
    """Return a worker with one bucket of 8 tokens."""
    specs = tuple(TensorSpec(name, "int64", (1, 8)) for name in ("input_ids", "attention_mask"))
    handler = kind(settings, [specs], write_tokenizer(folder))
    record = make_record()
    variant = record.variants[0]
    modules = tuple(dataclasses.replace(module, bucket={"sequence": 8}) for module in variant.modules)
    return Worker(
        record,
        dataclasses.replace(variant, modules=modules),
        handler,
        [Bucket(specs, {1: run, 4: run})],
        Lease((), 0, []),
        [],
    )


def ask(worker: Worker, body: bytes, kind: str = "application/json"):
    payload = worker.handler.read({"body": body}, {"body": kind})
    return explain_payload(worker, payload)


@pytest.mark.parametrize("method", ["ablation", "shapley", "kernel_shap", "occlusion"])
def test_the_word_that_decides_weighs_most(tmp_path, method):
    """Every word has a weight, in order; those that mean nothing to the model have none."""
    worker = make_worker(TextClassifier, classify, tmp_path, labels=["negative", "positive"])
    body = b'{"text": "a good dog movie", "parameters": {"method": "%s", "window": 1}}' % method.encode()
    answer = ask(worker, body)
    assert (answer["target"], [each["token"] for each in answer["tokens"]]) == (
        "positive",
        ["a", "good", "dog", "movie"],
    )
    weights = [each["weight"] for each in answer["tokens"]]
    assert weights == pytest.approx([0, answer["score"] - 0.5, 0, 0], abs=1e-5)


def test_a_label_can_be_asked_for(tmp_path):
    """What speaks for one label speaks against the other."""
    worker = make_worker(TextClassifier, classify, tmp_path, labels=["negative", "positive"])
    answer = ask(worker, b'{"text": "good dog", "parameters": {"target": "negative"}}')
    assert answer["tokens"][0]["weight"] < -0.4


def test_a_text_is_explained_by_its_similarity_to_itself(tmp_path):
    """What its embedding loses without a word; 1 for all of it."""
    answer = ask(make_worker(TextEmbedder, sum_words, tmp_path), b"a good film", "text/plain")
    weights = {each["token"]: each["weight"] for each in answer["tokens"]}
    assert answer["score"] == pytest.approx(1)
    assert weights["good"] > weights["film"] > 0.05
    assert weights["a"] == pytest.approx(0)


def test_a_pair_is_explained_by_its_similarity(tmp_path):
    """Both texts, each against the other whole one: what they share makes them similar, what they do not, different."""
    answer = ask(make_worker(TextEmbedder, sum_words, tmp_path), b'{"seq_0": "good film", "seq_1": "a dog movie"}')
    assert set(answer) == {"seq_0", "seq_1"}
    first, second = ({each["token"]: each["weight"] for each in answer[name]["tokens"]} for name in answer)
    assert first["film"] > 0 > first["good"]
    assert second["movie"] > 0 > second["dog"]
    assert answer["seq_0"]["score"] == pytest.approx(answer["seq_1"]["score"])


def test_several_pairs_keep_together(tmp_path):
    """A list of pairs gives a list of them, each as by itself."""
    worker = make_worker(TextEmbedder, sum_words, tmp_path)
    pairs = [b'{"seq_0": "good film", "seq_1": "dog movie"}', b'{"seq_0": "bad", "seq_1": "bad dog"}']
    together = ask(worker, b'{"instances": [%s]}' % b", ".join(pairs))["explanations"]
    for pair, answer in zip(pairs, together, strict=True):
        alone = ask(worker, pair)
        assert [answer[name]["tokens"] for name in answer] == [alone[name]["tokens"] for name in alone]


def test_a_cut_text_says_so(tmp_path):
    """And only the tokens that the model saw are listed."""
    worker = make_worker(TextEmbedder, sum_words, tmp_path, truncate=True)
    answer = ask(worker, b"good film " * 6, "text/plain")
    assert answer["truncated"] is True
    assert len(answer["tokens"]) == 6
    assert "truncated" not in ask(worker, b"good film", "text/plain")


def test_embeddings_have_no_targets(tmp_path):
    """400 rather than an answer to something else."""
    answer = ask(make_worker(TextEmbedder, sum_words, tmp_path), b'{"text": "dog", "parameters": {"target": 3}}')
    assert isinstance(answer, BadRequest)


def test_tokens_that_the_tokenizer_added_are_never_left_out():
    """A left-out token keeps its number and its place, and leaves the mask."""
    ids, mask = np.array([1, 3, 8, 2]), np.ones(4, np.int64)
    tokens = Tokens(ids, mask, ids * 0, ("[CLS]", "good", "dog", "[SEP]"), (True, False, False, True), 0)
    features = token_features(tokens, ["input_ids", "attention_mask"])
    copies = features.copy((ids, mask), np.array([False, True]))
    assert [each.tolist() for each in copies] == [[1, 3, 8, 2], [1, 0, 1, 1]]
    assert features.names == ("good", "dog")
