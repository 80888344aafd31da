"""What TorchServe sees of a worker: an answer for every row whatever the rows hold, or 503 with the reason."""

import base64
import dataclasses
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import artifact, cores, service
from handlers.cores import Lease
from handlers.errors import NotOffered
from handlers.responses import NPY
from handlers.service import RANDOM_HEADER, Service
from handlers.worker import Bucket, Worker
from tests.fakes import Echo, make_context, make_picture, run_model
from tests.forging import make_record, reseal

ROOT = Path(__file__).resolve().parents[2]
HOLD_ALL = """
import os, sys
from handlers import cores
host = cores.host_cpus()
held = [cores.take_lease("cpu", 1, host_cores=host, places=1, label="greedy 1.0") for _ in host]
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ready(tiny_folder):
    """A service whose worker of ``tiny`` has started."""
    started = Service(tiny_folder)
    started.initialize()
    assert started.worker is not None
    yield started
    started.worker.lease.release()


def ask(asked: Service, *rows, headers=None):
    """Return the context and the parsed answers to a batch."""
    context = make_context(asked.folder, headers or [{}] * len(rows))
    answers = asked.handle(list(rows), context)
    assert all(isinstance(answer, bytes) for answer in answers)
    return context, [json.loads(answer) for answer in answers]


def row(colour: str) -> dict:
    return {"body": bytearray(make_picture(colour))}


def make_bucket(*sizes: int) -> Bucket:
    return Bucket((artifact.TensorSpec("x", "float32", (1, 1)),), dict.fromkeys(sizes, run_model))


def top(answer: dict) -> str:
    return next(iter(answer))


BAD_ROWS = {
    "empty": ({"body": b""}, 400),
    "no fields": ({}, 400),
    "two fields": ({"a": b"1", "b": b"2"}, 400),
    "broken JSON": ({"body": b'{"data": '}, 400),
    "no base64": ({"body": {"data": "???"}}, 400),
    "no picture": ({"body": b"hello"}, 415),
    "half a picture": ({"body": make_picture()[:40]}, 400),
    "too large": ({"body": b"x" * (8 * 1024 * 1024 + 1)}, 413),
    "too many": ({"body": {"instances": ["AAAA"] * 129}}, 413),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_fails_alone(ready, fault):
    """It gets its status and a JSON error; its neighbours get their right answers in their order."""
    bad, status = BAD_ROWS[fault]
    context, answers = ask(ready, row("red"), bad, row("green"), row("blue"))
    assert [top(answers[n]) for n in (0, 2, 3)] == ["red", "green", "blue"]
    assert [code for code, _ in context.statuses] == [200, status, 200, 200]
    assert set(answers[1]) == {"code", "type", "message"}
    assert answers[1]["code"] == status


def test_every_answer_says_that_it_is_json(ready):
    """Errors and predictions alike, because TorchServe sets no content type."""
    context, _ = ask(ready, row("red"), {"body": b""})
    assert [each["content-type"] for each in context.response_headers] == ["application/json"] * 2


def test_the_forms_of_a_request_can_be_mixed_in_a_batch(ready):
    """Each client gets its answer in the form in which it asked."""
    text = base64.b64encode(make_picture("blue")).decode()
    tensor = {"id": "7", "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    _, answers = ask(ready, row("red"), {"body": {"instances": [{"b64": text}] * 2}}, {"body": tensor})
    assert top(answers[0]) == "red"
    assert [top(each) for each in answers[1]["predictions"]] == ["blue", "blue"]
    assert (answers[2]["id"], answers[2]["outputs"][0]["data"][0]) == ("7", "blue")


def test_a_batch_larger_than_the_largest_compiled_is_split(ready):
    """Ten rows run through modules of one and four."""
    _, answers = ask(ready, *[row(colour) for colour in ("red", "green") * 5])
    assert [top(answer) for answer in answers] == ["red", "green"] * 5


@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
def test_a_content_type_counts_in_any_spelling(ready, name):
    """TorchServe keeps the client's spelling of headers."""
    text = json.dumps(base64.b64encode(make_picture("green")).decode()).encode()
    _, (answer,) = ask(ready, {"body": text}, headers=[{name: "Application/JSON"}])
    assert top(answer) == "green"


def test_a_form_field_named_like_a_header_is_none(ready):
    """The note that TorchServe leaves on a field "accept" among the headers is not what the client accepts."""
    headers = [{"accept": {"content-type": "image/png"}}, {"Accept": "*/*", "accept": {"content-type": "text/plain"}}]
    context, _ = ask(ready, row("red"), row("blue"), headers=headers)
    assert [code for code, _ in context.statuses] == [200, 200]


def test_explanations_and_predictions_come_in_one_batch(ready):
    """TorchServe mixes them; every row of either kind gets its own answer, a broken one its own refusal."""
    headers = [{"explain": "True"}, {"explain": "False"}, {"explain": "True"}, {"explain": "True"}]
    context, answers = ask(ready, row("red"), row("green"), row("blue"), {"body": b"no picture"}, headers=headers)
    assert [code for code, _ in context.statuses] == [200, 200, 200, 415]
    assert (answers[0]["target"], top(answers[1]), answers[2]["target"]) == ("red", "green", "blue")


def test_describe_tells_the_state(ready):
    """What runs, where, and since when, in the middle of a batch as well."""
    _, (state, answer) = ask(ready, {}, row("red"), headers=[{"describe": "True"}, {}])
    expected = {"status": "ready", "model": "tiny", "version": "1.0", "target": "cpu", "batch_sizes": [1, 4]}
    assert {key: state[key] for key in expected} == expected
    assert (state["golden_requests"], state["attempts"], state["core_shared"]) == (3, 1, False)
    assert top(answer) == "red"


@pytest.fixture
def echo(tmp_path):
    """A service with a handler and a model that break on certain numbers."""
    record = make_record()
    started = Service(tmp_path)
    handler = Echo({}, [[artifact.TensorSpec("x", "float32", (1, 1))]])
    handler.preprocess = lambda item: Echo.preprocess(handler, int(item))
    started.worker = Worker(record, record.variants[0], handler, [make_bucket(1, 4)], Lease((), 0, []), [])
    return started


@pytest.mark.parametrize(("number", "status"), [(101, 400), (99, 500), (98, 500), (97, 500), (96, 500)])
def test_a_row_that_breaks_handler_or_model_fails_alone(echo, number, status):
    """A bug that one request brings out, or a NaN, costs its neighbours nothing."""
    rows = [{"body": str(each).encode()} for each in (1, number, 2)]
    context, answers = ask(echo, *rows)
    assert (answers[0], answers[2]) == (1, 2)
    assert [code for code, _ in context.statuses] == [200, status, 200]


def test_a_handler_that_explains_nothing_says_so(echo):
    """With 501, and its neighbour is answered."""
    context, answers = ask(echo, {"body": b"1"}, {"body": b"2"}, headers=[{"explain": "True"}, {}])
    assert (context.statuses[0][0], answers[0]["type"], answers[1]) == (501, NotOffered.__name__, 2)


def test_random_weights_are_marked(echo):
    """Every answer says that the model was never trained, an error's as well."""
    echo.worker.record = dataclasses.replace(echo.worker.record, random_weights=True)
    context, _ = ask(echo, {"body": b"1"}, {"body": b"101"})
    assert [headers.get(RANDOM_HEADER) for headers in context.response_headers] == ["true", "true"]


def test_a_client_that_accepts_nothing_on_offer_is_told(echo):
    """With 406; its neighbour, which wants npy, gets it."""
    context = make_context(echo.folder, [{"Accept": "text/html"}, {"accept": NPY}])
    answers = echo.handle([{"body": b"1"}, {"body": b"2"}], context)
    assert [code for code, _ in context.statuses] == [406, 200]
    assert context.response_headers[1]["content-type"] == NPY
    assert np.load(io.BytesIO(answers[1])).tolist() == [[2.0]]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["body", "data", "x"]), st.binary(max_size=4) | st.integers().map(lambda n: b"%d" % n)
        ),
        max_size=9,
    )
)
def test_there_are_as_many_answers_as_rows(rows):
    """TorchServe fails the whole batch when the list is of another length."""
    record = make_record()
    asked = Service(Path())
    handler = Echo({}, [[artifact.TensorSpec("x", "float32", (1, 1))]])
    asked.worker = Worker(record, record.variants[0], handler, [make_bucket(1)], Lease((), 0, []), [])
    context, answers = ask(asked, *rows)
    assert len(answers) == len(rows) == len(context.statuses)


@pytest.mark.parametrize("answer", [float("nan"), {1, 2}, b"bytes", {"a": float("inf")}], ids=repr)
def test_an_answer_that_json_cannot_hold_fails_alone(echo, answer):
    """The kit writes no NaN, and TorchServe would fail the whole batch."""
    kept = echo.worker.handler.postprocess
    echo.worker.handler.postprocess = lambda outputs: answer if float(outputs[0]) == 5 else kept(outputs)
    context, answers = ask(echo, {"body": b"1"}, {"body": b"5"})
    assert answers[0] == 1
    assert (context.statuses[1][0], answers[1]["type"]) == (500, "ModelError")


def test_a_handler_that_fails_as_a_whole_is_answered_with_500(echo):
    """A fault outside the rows, such as in as_tensors, leaves no row without an answer."""
    echo.worker.handler.as_tensors = lambda answers: 1 / 0
    body = {"inputs": [{"datatype": "BYTES", "data": ["AAAA"]}]}
    echo.worker.handler.preprocess = lambda item: Echo.preprocess(echo.worker.handler, 1)
    context, answers = ask(echo, {"body": b"1"}, {"body": body})
    assert [code for code, _ in context.statuses][1] == 500
    assert len(answers) == 2


def test_a_broken_archive_is_answered_with_503_and_the_fault(tiny_folder):
    """At once, for every row, and never from the model."""
    reseal(tiny_folder, lambda record: record["golden"][0].update(answer={"green": 1.0}))
    stopped = Service(tiny_folder)
    stopped.initialize()
    context, answers = ask(stopped, row("red"), {"body": b""}, {})
    assert [code for code, _ in context.statuses] == [503] * 3
    assert {answer["type"] for answer in answers} == {"GoldenMismatch"}
    assert "golden request tiny_red.png" in answers[0]["message"]


def test_describe_tells_why_a_worker_cannot_serve(tiny_folder):
    """With status 200, so that TorchServe hands it on."""
    reseal(tiny_folder, lambda record: record["handler"].update(path="absent_package.x:X"))
    stopped = Service(tiny_folder)
    stopped.initialize()
    context, (state,) = ask(stopped, {}, headers=[{"describe": "True"}])
    assert (state["status"], state["type"], state["retrying"]) == ("cannot serve", "ModelUnusable", False)
    assert "No module named 'absent_package'" in state["reason"]
    assert context.statuses[0][0] == 200


def test_a_service_that_has_not_started_says_so(tiny_folder):
    """Before initialize has ended, a request is answered too."""
    context, (answer,) = ask(Service(tiny_folder), row("red"))
    assert (context.statuses[0][0], answer["message"]) == (503, "the worker is still starting")


def test_a_worker_without_a_core_is_ready_once_one_is_free(tiny_folder, monkeypatch):
    """503 at once while another process holds all cores, naming it; a right answer after that has ended."""
    monkeypatch.setenv("TORCHSERVE_NEURON_WORKERS_PER_CORE", "1")
    monkeypatch.setattr(service, "_FIRST_WAIT", 0.1)
    greedy = subprocess.Popen(
        [sys.executable, "-c", HOLD_ALL], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert greedy.stdout.readline() == "held\n"
    waiting = Service(tiny_folder)
    began = time.monotonic()
    waiting.initialize()
    context, (answer,) = ask(waiting, row("red"))
    assert time.monotonic() - began < 10
    assert (context.statuses[0][0], answer["type"]) == (503, "NoCores")
    assert f"by pid {greedy.pid} (greedy 1.0)" in answer["message"]
    assert waiting.describe()["retrying"] is True
    greedy.kill()
    greedy.communicate()
    deadline = time.monotonic() + 30
    while waiting.worker is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert top(ask(waiting, row("red"))[1][0]) == "red"
    assert waiting.describe()["attempts"] > 1
    waiting.worker.lease.release()


def test_a_second_worker_shares_a_core_and_says_so(tiny_folder, leases, capsys):
    """Where every core has a worker, another serves slowly rather than not at all."""
    host = cores.host_cpus()
    first = [cores.take_lease("cpu", 1, host_cores=host, places=1, label="first", folder=leases) for _ in host]
    sharing = Service(tiny_folder)
    sharing.initialize()
    assert sharing.describe()["core_shared"] is True
    assert f"shares core(s) [{host[0]}] with another worker" in capsys.readouterr().err
    for lease in [*first, sharing.worker.lease]:
        lease.release()
