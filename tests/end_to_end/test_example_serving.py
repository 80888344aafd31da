"""A model with two inputs and a dictionary of outputs behind TorchServe: every form of a request, and wrong ones."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cli.building import ensure_archive
from tests import servers
from tests.servers import RECIPES, Server
from tracing.checking import read_archive_record

ITEM = {"ids": [7, 42], "features": [0.5, -1.0, 0.0, 2.0]}
V2 = {
    "id": "q1",
    "inputs": [
        {"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": ITEM["ids"]},
        {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": ITEM["features"]},
    ],
}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The archive of ``matcher`` and what the eager model answers to the item above, its first golden request."""
    base = tmp_path_factory.mktemp("matcher")
    archive = ensure_archive("matcher", store=base / "store", build=base / "build")
    return archive, read_archive_record(archive).golden[0].answer


@pytest.fixture(scope="module", params=["parsed", "bytes"])
def matcher(request: pytest.FixtureRequest, golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The archive served, with bodies parsed by TorchServe or not."""
    settings = {"decode_input_request": str(request.param == "parsed").lower()}
    folder, probe = tmp_path_factory.mktemp("server") / "s", RECIPES / "matcher_short.json"
    with servers.run_server(golden[0], folder, probe=probe, settings=settings) as running:
        yield running


def send(server: Server, body: Any, path: str = "", kind: str = "application/json") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.predict(raw, path, headers={"Content-Type": kind})


def test_json_and_npz_get_the_eager_models_answer(matcher, golden):
    """Alone, as KServe v1 and v2, and as arrays."""
    stream = io.BytesIO()
    np.savez(stream, ids=np.array([ITEM["ids"]]), features=np.array([ITEM["features"]]))
    first = send(matcher, {"instances": [ITEM, ITEM]}, "/v1/models/matcher:predict").json()
    second = send(matcher, V2, "/v2/models/matcher/infer").json()
    tensors = {each["name"]: each["data"] for each in second["outputs"]}
    listed = send(matcher, stream.getvalue(), kind="application/octet-stream").json()
    answers = [send(matcher, ITEM).json(), *first["predictions"], *listed, {**tensors, "score": tensors["score"][0]}]
    assert (len(answers), second["id"]) == (5, "q1")
    for answer in answers:
        # A batch of another size may round its sums in another way.
        assert answer["score"] == pytest.approx(golden[1]["score"], abs=1e-4)
        assert answer["words"] == pytest.approx(golden[1]["words"], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "kind", "status", "fault"),
    [
        ({"ids": [1]}, "application/json", 400, "input 'features' is missing"),
        ({**ITEM, "ids": ["a"]}, "application/json", 400, "input 'ids'[0] is str 'a', expected a whole number"),
        (b'{"ids": [1], "features": [1, 2, 3, 1e999]}', "application/json", 400, "input 'features'[3] is inf"),
        ({**ITEM, "ids": list(range(1, 18))}, "application/json", 413, "fits into no compiled shape"),
        (b"\x89PNG", "image/png", 415, "neither JSON nor npy nor npz"),
    ],
)
def test_wrong_requests_get_their_status_and_the_reason(matcher, body, kind, status, fault):
    """And the worker goes on answering."""
    answer = send(matcher, body, kind=kind)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert fault in answer.json()["message"]
    assert send(matcher, ITEM).status_code == 200
