"""What clients send and get: good requests in every form, malformed ones by fault, and both in the same batches."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.catalogue import FORMS, JSON, as_base64, as_json, malformed, nested_objects, sent
from tests.servers import RECIPES, Server

MALFORMED = malformed()


def assert_right(answer: requests.Response, expected: Any) -> None:
    """Hold that an answer is the expected probabilities, in JSON, largest first."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == pytest.approx(expected, abs=1e-5)
    assert list(answer.json().values()) == sorted(answer.json().values(), reverse=True)


def assert_refused(answer: requests.Response, status: int) -> None:
    """Hold that an answer is an error of that status, in JSON, with all its parts."""
    assert answer.status_code in ((400, 415) if status == 4 else (status,)), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert sorted(answer.json()) == ["code", "message", "type"]
    assert answer.json()["code"] == answer.status_code
    assert answer.json()["message"]


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_answered_right_in_every_form(server: Server, good: list[tuple[bytes, Any]], form: str) -> None:
    """Raw, multipart and JSON requests get the answer that the picture itself gets."""
    for body, expected in good:
        assert_right(server.predict(**sent(FORMS[form](body))), expected)


def test_instances_get_a_list_of_predictions(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """KServe v1: each instance has its answer at its place, over the v1 route and the usual one."""
    instances = as_json({"instances": [{"b64": as_base64(body)} for body, _ in good] * 3})
    for path in ("", "/v1/models/tiny:predict"):
        predictions = server.predict(path=path, **sent(instances)).json()["predictions"]
        assert len(predictions) == 3 * len(good)
        for found, (_, expected) in zip(predictions, good * 3, strict=True):
            assert found == pytest.approx(expected, abs=1e-5)


def test_tensors_get_named_outputs(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """KServe v2: labels and probabilities come as tensors, with the request's id."""
    data = [as_base64(body) for body, _ in good]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}
    answer = server.predict(path="/v2/models/tiny/infer", **sent(as_json({"id": "17", "inputs": [tensor]}))).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("17", "tiny", "1.0")
    labels, probabilities = answer["outputs"]
    assert labels["shape"] == probabilities["shape"] == [3, 3]
    assert labels["data"] == [label for _, expected in good for label in _ranked(expected)]


def test_an_id_of_a_lone_surrogate_does_no_harm(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """An id that no UTF-8 can hold is the client's affair: it gets an answer, not a fault of the server."""
    tensor = {"datatype": "BYTES", "data": [as_base64(good[0][0])]}
    body = json.dumps({"id": "\ud800", "inputs": [tensor]}).encode()
    answer = server.predict(body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == _ranked(good[0][1])


def test_a_real_curl_uploads_a_file(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """`curl URL -T FILE` and `curl URL -F data=@FILE`, as the documents give them, are answered."""
    url = f"{server.inference}/predictions/tiny"
    red = str(RECIPES / "tiny_red.png")
    for arguments in (["-T", red], ["-F", f"data=@{red}"], ["-F", f"image=@{red}"], ["--data-binary", f"@{red}"]):
        typed = ["-H", "Content-Type: image/png"] if arguments[0] == "--data-binary" else []
        command = ["curl", "-sS", "-w", "\n%{http_code} %{content_type}", url, *typed, *arguments]
        done = subprocess.run(command, capture_output=True, check=True)
        body, _, status = done.stdout.decode().rpartition("\n")
        assert (status, max_label(body)) == ("200 application/json", "red"), (arguments, body)


def test_a_real_curl_sends_json(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """`curl URL -H 'Content-Type: application/json' -d JSON` is answered."""
    body = FORMS["JSON data"](good[0][0])["data"]
    arguments = ["-H", "Content-Type: application/json", "-d", "@-", f"{server.inference}/predictions/tiny"]
    done = subprocess.run(["curl", "-sS", *arguments], input=body, capture_output=True, check=True)
    assert max_label(done.stdout.decode()) == "red"


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_request_is_refused_with_its_status(server: Server, fault: str) -> None:
    """The client's fault is the client's: a 4xx with code, type and message in JSON."""
    status, request = MALFORMED[fault]
    assert_refused(server.predict(**sent(request)), status)


def test_nesting_near_the_interpreters_limit_is_refused(server: Server) -> None:
    """JSON that Python can parse but hardly walk through is a bad request at every depth."""
    for depth in range(900, 1010, 1):
        assert_refused(server.predict(nested_objects(depth), headers=JSON), 400)


def test_more_than_the_server_takes_is_refused(server: Server) -> None:
    """Over max_request_size TorchServe itself answers 413, and the next request is answered as ever."""
    assert server.predict(b"\0" * (17 * 1024 * 1024)).status_code == 413
    assert server.predict((RECIPES / "tiny_red.png").read_bytes()).status_code == 200


def test_neighbours_of_malformed_requests_are_answered_right(server: Server, good: list[tuple[bytes, Any]]) -> None:
    """Good requests that share batches with every malformed one get their right answers; no worker ends."""
    before = server.worker_pids()
    cheap = [each for fault, each in MALFORMED.items() if "bomb" not in fault and "9 MB" not in fault]
    work = list(zip(cheap, good * len(cheap), strict=False))
    with ThreadPoolExecutor(16) as pool:
        refused = [(status, pool.submit(server.predict, **sent(request))) for (status, request), _ in work]
        answered = [(expected, pool.submit(server.predict, body)) for _, (body, expected) in work]
    for status, future in refused:
        assert_refused(future.result(), status)
    for expected, future in answered:
        assert_right(future.result(), expected)
    assert server.worker_pids() == before


def _ranked(expected: dict[str, float]) -> list[str]:
    return sorted(expected, key=lambda label: -expected[label])


def max_label(body: str) -> str:
    """Return the most probable label of an answer in JSON."""
    found: dict[str, float] = json.loads(body)
    return max(found, key=lambda label: found[label])
