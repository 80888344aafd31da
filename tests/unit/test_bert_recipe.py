"""The recipe ``bert``, built from a tiny Hugging Face folder as a user's, and asked for labels."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cli.building import ensure_archive
from handlers.errors import RequestError
from handlers.starting import start_worker
from handlers.worker import Worker
from tracing.errors import KitError
from tracing.loading import SHIPPED
from tracing.networks.bert import make_random
from tracing.networks.bert_config import BertConfig

TOKENIZER = SHIPPED / "bert" / "tokenizer.json"
LABELS = ("unrelated", "paraphrase", "unclear")


def write_tiny_bert(folder: Path) -> Path:
    """Write a classifier of two layers as model hubs give one."""
    vocabulary = len(json.loads(TOKENIZER.read_text())["model"]["vocab"])
    sizes = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes.update(intermediate_size=64, max_position_embeddings=128)
    folder.mkdir()
    shutil.copy(TOKENIZER, folder)
    config = {"model_type": "bert", **sizes, "id2label": {str(n): label for n, label in enumerate(LABELS)}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(make_random(BertConfig(**sizes, labels=LABELS)).state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the archive."""
    base = tmp_path_factory.mktemp("bert")
    weights = str(write_tiny_bert(base / "weights"))
    archive = ensure_archive("bert", store=base / "store", build=base / "build", weights=weights)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "unpacked")
    return base / "unpacked"


@pytest.fixture
def worker(unpacked: Path) -> Iterator[Worker]:
    """A worker of the archive."""
    started = start_worker(unpacked)
    yield started
    started.lease.release()


def ask(worker: Worker, row: dict) -> object:
    """Return the answer to one request."""
    payload = worker.handler.read(row, {"body": "application/json"})
    return worker.answer([payload])[0]


def test_tokenizer_and_labels_are_the_folders(unpacked):
    """They travel in the archive; both batch sizes share one file with the weights."""
    assert json.loads((unpacked / "config.json").read_text())["id2label"]["1"] == "paraphrase"
    assert len(list((unpacked / "modules").iterdir())) == 1


def test_a_pair_in_a_form_gets_labels(worker):
    """What AWS's tutorial client sends."""
    answer = ask(worker, {"seq_0": b"The cat sat.", "seq_1": b"A cat was sitting."})
    assert set(answer) == set(LABELS)
    assert sum(answer.values()) == pytest.approx(1, abs=1e-5)


def test_a_long_text_is_cut_and_said_to_be(worker):
    """As AWS's tutorial cuts it."""
    assert ask(worker, {"body": json.dumps("the cat " * 200).encode()})["truncated"] is True


def test_a_list_and_one_label_each(worker):
    """In the order of the texts, alone or together."""
    texts = ["the cat", "a very long story about animals", "water"]
    together = ask(worker, {"body": json.dumps({"texts": texts, "parameters": {"top_k": 1}}).encode()})
    alone = [ask(worker, {"body": json.dumps({"text": each, "parameters": {"top_k": 1}}).encode()}) for each in texts]
    assert [list(each) for each in together] == [list(each) for each in alone]
    assert all(len(each) == 1 for each in together)


def test_a_wrong_text_fails_alone(worker):
    """Its neighbour in the batch is answered."""
    rows = [{"body": b'"\\u0001"'}, {"body": b'"the cat"'}]
    payloads = [worker.handler.read(row, {"body": "application/json"}) for row in rows]
    wrong, right = worker.answer(payloads)
    assert isinstance(wrong, RequestError)
    assert set(right) == set(LABELS)


def test_a_folder_without_tokenizer_is_named(tmp_path):
    """Before anything is compiled."""
    weights = write_tiny_bert(tmp_path / "weights")
    (weights / "tokenizer.json").unlink()
    with pytest.raises(KitError, match=r"tokenizer\.json"):
        ensure_archive("bert", store=tmp_path / "store", build=tmp_path / "build", weights=str(weights))
