"""Every form in which a client may send a file, and every way to get it wrong."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import BadRequest, RequestError, TooLarge
from handlers.payloads import INSTANCES, MOST_ITEMS, PLAIN, TENSORS, Payload, decode_base64, read_payload

FILE = b"\x89PNG\xfb\xff\xfe a picture"
TEXT = base64.b64encode(FILE).decode()
URL_SAFE = base64.urlsafe_b64encode(FILE).decode()
BYTES_TENSOR = {"name": "x", "datatype": "BYTES", "shape": [1], "data": [TEXT]}


@pytest.mark.parametrize(
    "row",
    [
        {"body": FILE},
        {"body": bytearray(FILE)},
        {"body": memoryview(FILE)},
        {"data": FILE},
        {"any name": FILE},
        {"data": FILE, "comment": b"a second field"},
        {"comment": b"a second field", "body": FILE},
    ],
)
def test_a_raw_body_or_a_form_field_is_one_item(row):
    """A body and a form's file are one item, whatever the field is called."""
    assert read_payload(row, {}) == Payload([FILE], PLAIN)


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        URL_SAFE,
        TEXT.rstrip("="),
        f"{TEXT[:8]}\n{TEXT[8:]}",
        f"data:image/png;base64,{TEXT}",
        {"data": TEXT},
        {"body": TEXT},
        {"b64": TEXT},
        {"data": {"b64": TEXT}},
        {"image": TEXT, "comment": "of no matter"},
        {"a name of the client's": TEXT},
    ],
)
@pytest.mark.parametrize("parsed", [True, False])
def test_json_with_base64_is_one_item(content, parsed):
    """A lone text in JSON is one item, whether TorchServe has parsed the JSON or not."""
    body = content if parsed else json.dumps(content).encode()
    assert read_payload({"body": body}, {"body": "application/json"}) == Payload([FILE], PLAIN)


@pytest.mark.parametrize("body", [TEXT, TEXT.encode(), f'{{"data": "{TEXT}"}}', f'{{"data": "{TEXT}"}}'.encode()])
def test_a_text_body_is_base64_or_json_whether_decoded_or_not(body):
    """TorchServe decodes text/* by default and does not with decode_input_request=false."""
    assert read_payload({"body": body}, {"body": "text/plain"}) == Payload([FILE], PLAIN)


@pytest.mark.parametrize("item", [TEXT, {"b64": TEXT}, {"image_bytes": {"b64": TEXT}}])
def test_instances_are_items_in_order(item):
    """KServe v1 carries several items, answered as predictions."""
    other = base64.b64encode(b"other").decode()
    assert read_payload({"body": {"instances": [item, other]}}, {}) == Payload([FILE, b"other"], INSTANCES)


def test_a_bytes_tensor_is_items_with_an_identifier():
    """KServe v2 carries several items and an identifier that goes back with the answer."""
    body = {"id": "42", "inputs": [{**BYTES_TENSOR, "data": [TEXT, TEXT]}]}
    assert read_payload({"body": body}, {}) == Payload([FILE, FILE], TENSORS, "42")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", ""])
def test_json_is_known_by_type_or_by_its_bracket(content_type):
    """A client that forgot the content type is understood too."""
    body = json.dumps({"data": TEXT}).encode()
    assert read_payload({"data": body}, {"data": content_type}).items == [FILE]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no body, or was sent as a form without fields"),
        ({"body": b""}, "empty body"),
        ({"body": None}, "holds nothing"),
        ({"a": FILE, "b": FILE}, "the form has 2 fields (a, b); send one, or name it 'data'"),
        ({"body": {}}, "an object with the keys (none)"),
        ({"body": {"x": 1, "y": 2}}, "an object with the keys x, y"),
        ({"body": []}, "a list of 0"),
        ({"body": [TEXT]}, "a list of 1"),
        ({"body": 3}, "int 3"),
        ({"body": True}, "bool True"),
        ({"body": "not base64!"}, "is not base64"),
        ({"body": "AAAAA"}, "is not base64"),
        ({"body": {"instances": []}}, "'instances' is a list of 0"),
        ({"body": {"instances": TEXT}}, "'instances' is str"),
        ({"body": {"instances": None}}, "'instances' is nothing"),
        ({"body": {"instances": [[1, 2]]}}, "a list of 2"),
        ({"body": {"inputs": []}}, "'inputs' has 0 element(s)"),
        ({"body": {"inputs": [BYTES_TENSOR, BYTES_TENSOR]}}, "'inputs' has 2 element(s)"),
        ({"body": {"inputs": [{"datatype": "FP32", "data": [1.0]}]}}, "input datatype is 'FP32', expected BYTES"),
        ({"body": {"inputs": [{"datatype": "BYTES"}]}}, "'data' is nothing"),
        ({"body": b"{"}, "not valid JSON"),
        ({"body": b'{"data": NaN}'}, "float nan"),
        ({"body": b'{"data": Infinity}'}, "float inf"),
        ({"body": b'{"data": "\xff"}'}, "not valid JSON"),
        ({"body": b"[" * 100_000}, "nested too deeply"),
        ({"body": b'{"data":' * 100_000}, "nested too deeply"),
        ({"body": b'{"n": ' + b"9" * 100_000 + b"}"}, "not valid JSON"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(row, message):
    """Each fault has a message that names it, and status 400."""
    with pytest.raises(BadRequest) as caught:
        read_payload(row, {})
    assert message in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_too_many_items_are_refused(key):
    """One client cannot keep a worker for seconds: a request holds 128 items at most."""
    items = [TEXT] * (MOST_ITEMS + 1)
    body = {key: items if key == "instances" else [{**BYTES_TENSOR, "data": items}]}
    with pytest.raises(TooLarge, match=f"{MOST_ITEMS + 1} items, at most {MOST_ITEMS}") as caught:
        read_payload({"body": body}, {})
    assert caught.value.status == 413


def test_the_most_items_are_taken():
    """128 items are not yet too many."""
    assert len(read_payload({"body": {"instances": [TEXT] * MOST_ITEMS}}, {}).items) == MOST_ITEMS


def test_parsed_json_nested_deeply_is_refused():
    """JSON that TorchServe parsed is as safe as JSON that we parse."""
    nested: Any = TEXT
    for _ in range(50_000):
        nested = {"data": nested}
    with pytest.raises(RequestError):
        read_payload({"body": nested}, {})


def test_a_message_does_not_repeat_a_long_request():
    """What a client sent comes back shortened, not megabytes of it."""
    with pytest.raises(BadRequest) as caught:
        read_payload({"body": {"k" * 1_000_000: 1, "j": 2}}, {})
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=200))
def test_base64_of_any_bytes_comes_back(content):
    """Every file survives base64 in both alphabets, with and without padding."""
    for text in (base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode().rstrip("=")):
        assert decode_base64(text) == content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(TEXT),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "instances", "inputs", "b64", "datatype", "id", "x"]), inner)
    ),
    max_leaves=12,
)
FIELDS = st.binary(max_size=60) | JSON | JSON.map(lambda value: json.dumps(value).encode())


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(["body", "data", "a", "b"]), FIELDS), st.sampled_from(["", "application/json"]))
def test_any_row_is_a_payload_or_a_request_error(row, content_type):
    """Nothing a client sends raises anything but a request error."""
    try:
        payload = read_payload(row, dict.fromkeys(row, content_type))
    except RequestError:
        return
    assert payload.items
    assert all(isinstance(item, bytes) for item in payload.items)
