"""The examples ``distance`` (a function as a model) and ``matcher`` (two inputs, a dictionary of outputs), built."""

import io
import json
import math
import zipfile

import numpy as np
import pytest

from cli.building import ensure_archive
from handlers.service import Service
from tests.fakes import make_context

ZEROS = [0.0] * 15
ITEM = {"ids": [7, 42], "features": [0.5, -1.0, 0.0, 2.0]}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A started service for each example, by name."""
    base, found = tmp_path_factory.mktemp("examples"), {}
    for name in ("distance", "matcher"):
        archive = ensure_archive(name, store=base / "store", build=base / "build")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(base / name)
        found[name] = Service(base / name)
        found[name].initialize()
    yield found
    for each in found.values():
        if each.worker is not None:
            each.worker.lease.release()


def ask(service, *bodies, accept="application/json"):
    """Return the statuses and answers to a batch of requests; bytes are sent as they are."""
    context = make_context(service.folder, [{"Accept": accept}] * len(bodies))
    rows = [{"body": body if isinstance(body, bytes) else json.dumps(body).encode()} for body in bodies]
    answers = service.handle(rows, context)
    return [code for code, _ in context.statuses], [a if accept.endswith("npy") else json.loads(a) for a in answers]


@pytest.mark.parametrize(
    ("name", "outputs"), [("distance", ("squared_euclidean", "cosine")), ("matcher", ("score", "words"))]
)
def test_they_start_and_keep_the_names_of_their_outputs(examples, name, outputs):
    """The worker has replayed the golden requests; a dictionary's keys stand in the record in their order."""
    worker = examples[name].worker
    assert worker is not None, examples[name].fault
    assert worker.variant.outputs == outputs
    assert set(worker.record.golden[0].answer) == set(outputs)


@pytest.mark.parametrize(
    ("a", "b", "squared", "cosine"),
    [
        ([1.0], [1.0], 0.0, 0.0),
        ([1.0], [-2.0], 9.0, 2.0),
        ([3.0], [0.0], 9.0, 1.0),
        ([1.0, 1.0], [1.0, 0.0], 1.0, 1 - math.sqrt(0.5)),
    ],
)
def test_the_function_measures_both_distances(examples, a, b, squared, cosine):
    """Against figures worked out by hand; the vectors are filled with zeros."""
    body = {"a": (a + ZEROS + [0.0])[:16], "b": (b + ZEROS + [0.0])[:16]}
    (status,), (answer,) = ask(examples["distance"], body)
    assert status == 200
    assert answer == pytest.approx({"squared_euclidean": squared, "cosine": cosine}, abs=1e-6)


def test_every_form_of_a_request_gets_the_same_answer(examples):
    """JSON, KServe v1 and v2, and npz, in one batch."""
    array = io.BytesIO()
    np.savez(array, ids=np.array([ITEM["ids"]]), features=np.array([ITEM["features"]]))
    ids = {"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": ITEM["ids"]}
    features = {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": ITEM["features"]}
    bodies = (ITEM, {"instances": [ITEM]}, {"inputs": [ids, features]}, array.getvalue())
    statuses, (plain, first, second, listed) = ask(examples["matcher"], *bodies)
    assert statuses == [200] * 4
    (score, words), (v1,), (arrays,) = second["outputs"], first["predictions"], listed
    assert (score["name"], score["datatype"], score["shape"], words["shape"]) == ("score", "FP32", [1], [1, 8])
    for found in (v1, arrays, {"score": score["data"][0], "words": words["data"]}):
        assert found["score"] == pytest.approx(plain["score"], abs=1e-6)
        assert found["words"] == pytest.approx(plain["words"], abs=1e-6)


def test_padding_changes_no_answer(examples):
    """The same words in the larger bucket, by zeros that the client adds, and beside longer neighbours."""
    padded = {**ITEM, "ids": ITEM["ids"] + [0] * 9}
    longer = {**ITEM, "ids": list(range(1, 17))}
    _, (alone,) = ask(examples["matcher"], ITEM)
    _, (first, second, third) = ask(examples["matcher"], ITEM, longer, padded)
    assert first["score"] == pytest.approx(alone["score"], abs=1e-6)
    assert third["score"] == pytest.approx(alone["score"], abs=1e-6)
    assert second["score"] != pytest.approx(alone["score"], abs=1e-3)


def test_padding_is_counted_as_waste(examples):
    """Three of eight words and four of four features: a bucket of 4 holds one value of padding in eight."""
    waste = examples["matcher"].worker.waste
    before = (waste.computed, waste.padded)
    ask(examples["matcher"], {**ITEM, "ids": [1, 2, 3]})
    assert (waste.computed - before[0], waste.padded - before[1]) == (8, 1)


@pytest.mark.parametrize(
    ("body", "status", "fault"),
    [
        ({**ITEM, "ids": list(range(17))}, 413, "fits into no compiled shape"),
        ({**ITEM, "ids": [1.5]}, 400, "input 'ids'[0] is float 1.5, expected a whole number"),
        ({**ITEM, "features": [1, 2, 3]}, 400, "input 'features' is a list of 3, expected 4"),
        ({"ids": [1]}, 400, "input 'features' is missing"),
        ({"instances": [ITEM, {**ITEM, "more": 1}]}, 400, "there is no input 'more'"),
        (b'{"ids": [1], "features": [NaN, 0, 0, 0]}', 400, "input 'features'[0] is nan"),
        (b"\x89PNG", 415, "neither JSON nor npy nor npz"),
    ],
)
def test_a_wrong_request_fails_alone(examples, body, status, fault):
    """Its neighbours in the batch are answered as if it were not there."""
    _, (alone,) = ask(examples["matcher"], ITEM)
    statuses, answers = ask(examples["matcher"], ITEM, body, ITEM)
    assert statuses == [200, status, 200]
    assert fault in answers[1]["message"]
    assert answers[0]["score"] == pytest.approx(alone["score"], abs=1e-6)


def test_raw_outputs_and_npy_are_offered_where_they_fit(examples):
    """Raw outputs go by their names; npy holds one array, so that two outputs are 406."""
    item = {"a": [*ZEROS, 1], "b": [*ZEROS, 2]}
    _, (plain, raw) = ask(examples["distance"], item, {**item, "parameters": {"form": "raw"}})
    assert plain == raw
    (status,), _ = ask(examples["distance"], item, accept="application/x-npy")
    assert status == 406
