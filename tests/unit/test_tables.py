"""Rows of tables from every form of request, and every fault named by its row and field."""

import json

import pytest

from handlers.columns import Column
from handlers.errors import BadRequest, TooLarge
from handlers.payloads import INSTANCES, LIST, MOST_ITEMS, PLAIN, TENSORS, Payload
from handlers.tables import MOST_BYTES, TableReader

COLUMNS = (
    Column("rooms", low=0, high=100),
    Column("age", optional=True),
    Column("place", kind="category", categories=("INLAND", "NEAR BAY, OR NOT")),
)
READER = TableReader(COLUMNS, ignored=("price",))
ROW = {"rooms": 3, "age": 2.5, "place": "INLAND"}
LAST = {"place": "INLAND", "rooms": 4}
READ = (3, 2.5, "INLAND")


def read(body: object, content_type: str = "") -> Payload:
    """Return what the reader makes of a body: bytes and texts as they are, anything else as JSON."""
    value = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return READER.read({"body": value}, {"body": content_type}, ("form",))


def tensor(name: str, data: list, datatype: str = "FP64", shape: list | None = None) -> dict:
    return {"name": name, "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data}


TENSORS_OF_TWO = [
    tensor("place", ["INLAND", "NEAR BAY, OR NOT"], "BYTES", [2, 1]),
    tensor("rooms", [[3], [4]], "INT64", [2, 1]),
    tensor("age", [2.5, None], "FP32"),
]


@pytest.mark.parametrize(
    ("body", "form", "rows"),
    [
        (ROW, PLAIN, [READ]),
        (dict(reversed(ROW.items())), PLAIN, [READ]),
        ({**ROW, "price": 1e5}, PLAIN, [READ]),
        ([ROW], LIST, [READ]),
        ([ROW, {**ROW, "age": None}, LAST], LIST, [READ, (3, None, "INLAND"), (4, None, "INLAND")]),
        ({"instances": [ROW, ROW]}, INSTANCES, [READ, READ]),
        ({"columns": ["place", "rooms", "age"], "data": [["INLAND", 3, 2.5]]}, LIST, [READ]),
        ({"columns": ["place", "rooms"], "index": [7], "data": [["INLAND", 3]]}, LIST, [(3, None, "INLAND")]),
        ({"inputs": TENSORS_OF_TWO, "id": "7"}, TENSORS, [READ, (4, None, "NEAR BAY, OR NOT")]),
        ({"inputs": [tensor("rooms", [3]), tensor("place", ["INLAND"], "BYTES")]}, TENSORS, [(3, None, "INLAND")]),
    ],
)
def test_every_form_of_json_is_read(body, form, rows):
    """Columns in any order, optional ones missing, the target's own ignored; the form is remembered."""
    payload = read(body)
    assert (payload.form, payload.items) == (form, rows)


@pytest.mark.parametrize("content_type", ["text/csv", "text/plain", "", "application/octet-stream"])
@pytest.mark.parametrize(
    ("body", "form", "rows"),
    [
        ("rooms,age,place\n3,2.5,INLAND\n", PLAIN, [READ]),
        ("place,rooms,age\r\nINLAND,3,2.5\r\nINLAND,4,\r\n", LIST, [READ, (4, None, "INLAND")]),
        ("\ufeffrooms,age,place\n3,2.5,INLAND", PLAIN, [READ]),
        ("\n\n rooms , age,place\n\n3, 2.5 ,INLAND\n\n,,\n", PLAIN, [READ]),
        ('"rooms","age","place"\n"3","2.5","NEAR BAY, OR NOT"\n', PLAIN, [(3, 2.5, "NEAR BAY, OR NOT")]),
        ("rooms,place,price\n+3.0e0,INLAND,unknown\n.5,INLAND,\n", LIST, [(3, None, "INLAND"), (0.5, None, "INLAND")]),
    ],
)
def test_every_form_of_csv_is_read(body, form, rows, content_type):
    """Quotes, CRLF, a byte order mark, blanks and blank lines; whatever type the client gives it."""
    payload = read(body, content_type)
    assert (payload.form, payload.items) == (form, rows)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**ROW, "rooms": "abc"}, "row 1, field 'rooms': found 'abc', expected a number"),
        ({**ROW, "rooms": "3"}, "row 1, field 'rooms': found '3', expected a number"),
        ({**ROW, "rooms": True}, "row 1, field 'rooms': found True, expected a number"),
        ({**ROW, "rooms": [3]}, "row 1, field 'rooms': found list of 1, expected a number"),
        ({**ROW, "rooms": None}, "row 1, field 'rooms': nothing found, expected a number"),
        ({**ROW, "rooms": -1}, "found -1, expected a number of at least 0 and of at most 100"),
        ({**ROW, "rooms": float("nan")}, "row 1, field 'rooms': found nan, expected a finite number"),
        ({**ROW, "age": float("inf")}, "found inf, expected a finite number, or null (in CSV: nothing)"),
        ('{"rooms": 1e999, "place": "INLAND"}', "field 'rooms': found inf, expected a finite number"),
        ({**ROW, "rooms": 10**400}, "field 'rooms': found 1000000000000"),
        ({"place": "INLAND"}, "row 1, field 'rooms': nothing found"),
        ({**ROW, "place": "OUTLAND"}, "field 'place': found 'OUTLAND', expected one of 'INLAND', 'NEAR BAY, OR NOT'"),
        ({**ROW, "place": 3}, "row 1, field 'place': found 3, expected one of 'INLAND'"),
        ({**ROW, "romms": 3}, "row 1, field 'romms': there is no such column; did you mean 'rooms'?"),
        ({**ROW, "xyz": 3}, "field 'xyz': there is no such column; the columns are rooms, age, place"),
        ([ROW, {**ROW, "age": "x"}], "row 2, field 'age': found 'x'"),
        ({"instances": [ROW, ROW, {**ROW, "age": "x"}]}, "row 3, field 'age': found 'x'"),
        ([ROW, 5], "row 2: found int 5, expected an object"),
        ("7", "the body is no JSON, and its first line '7' names none of the columns"),
        ([], "the list is empty"),
        ({"instances": []}, "'instances' is a list of 0"),
        ({"columns": ["rooms", "rooms"], "data": [[1, 2]]}, "the column 'rooms' is there twice"),
        ({"columns": ["rooms", "place"], "data": [[1, "INLAND"], [2]]}, "row 2 has 1 values, expected 2"),
        ({"columns": ["rooms", 3], "data": [[1, 2]]}, "a column's name is 3, expected a text"),
        ({"columns": ["rooms"], "data": 3}, "'data' is int 3, expected a list of rows"),
        ({"columns": ["rooms"], "data": []}, "'data' is empty"),
        ({"columns": ["rooms"], "data": [[1]], "parameters": {"x": 1}}, "unknown parameter(s) x"),
        ({"inputs": []}, "is empty"),
        ({"inputs": [5]}, "'inputs' holds int 5, expected a tensor with a name"),
        ({"inputs": [tensor("rooms", [3], "BYTES")]}, "input 'rooms' has datatype BYTES, expected FP64"),
        ({"inputs": [tensor("rooms", [True], "BOOL")]}, "input 'rooms' has datatype BOOL, expected FP64"),
        ({"inputs": [tensor("place", [3], "INT64")]}, "input 'place' has datatype INT64, expected BYTES (texts)"),
        ({"inputs": [tensor("rooms", [3], shape=[2])]}, "input 'rooms' has shape [2] and 1 values"),
        ({"inputs": [tensor("rooms", [[3, 4]], shape=[1, 2])]}, "expected [rows] or [rows, 1]"),
        ({"inputs": [tensor("rooms", [3]), tensor("rooms", [3])]}, "input 'rooms' is there twice"),
        ({"inputs": [tensor("rooms", [3]), tensor("age", [3, 4])]}, "different numbers of rows"),
        ({"inputs": [tensor("rooms", [3]), tensor("romms", [3])]}, "did you mean 'rooms'?"),
        ({"inputs": [{**tensor("rooms", [3]), "data": 3}]}, "data is int 3, expected a list"),
        ("", "the request has an empty body"),
        (" \n \n", "the request has an empty body"),
        ("a,b\n1,2", "its first line 'a,b' names none of the columns rooms, age, place"),
        (b"\xff\xd8\xff\xe0", "the body is no text in UTF-8"),
        ("rooms,place", "the CSV is empty"),
        ("rooms,rooms,place\n1,2,INLAND", "the column 'rooms' is there twice"),
        ("rooms,place\n1,INLAND\n2,INLAND,3\n4", "row 2 has 3 values, expected 2, one for each column; row 3 has 1"),
        ("rooms,place\n1,INLAND\nx,INLAND", "row 2, field 'rooms': found 'x', expected a number"),
        ("rooms,place\nNaN,INLAND", "field 'rooms': found 'NaN', expected a number"),
        ("rooms,place\n1_0,INLAND", "field 'rooms': found '1_0', expected a number"),
        ("rooms,place\n1e999,INLAND", "field 'rooms': found inf, expected a finite number"),
        ("rooms,place\n,INLAND", "row 1, field 'rooms': nothing found"),
        ("rooms,place,romms\n1,INLAND,3", "field 'romms': there is no such column; did you mean 'rooms'?"),
        ('rooms,place\n1,"INLAND', "the body is no CSV that can be read"),
    ],
)
def test_each_fault_is_named_with_its_row_and_field(body, message):
    """What was found, and what was expected."""
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert message in str(caught.value)


def test_all_faults_are_told_at_once():
    """The first five, and how many more there are."""
    with pytest.raises(BadRequest) as caught:
        read([{**ROW, "rooms": "x", "age": "y"}, ROW, {"rooms": -3, "place": "Z", "romms": 1, "age": False}])
    text = str(caught.value)
    assert text.count("; row") == 4
    assert text.startswith("row 3, field 'romms'")
    assert text.endswith("row 3, field 'age': found False, expected a number; and 1 more")


def test_an_unknown_column_is_told_once_for_all_rows():
    """A typo in a header is one fault, not a hundred."""
    with pytest.raises(BadRequest) as caught:
        read([{**ROW, "romms": 3}] * 9)
    assert str(caught.value).count("romms") == 1


@pytest.mark.parametrize(
    "body",
    [
        [ROW] * (MOST_ITEMS + 1),
        {"instances": [ROW] * (MOST_ITEMS + 1)},
        {"columns": list(ROW), "data": [list(ROW.values())] * (MOST_ITEMS + 1)},
        {"inputs": [tensor("rooms", [3] * (MOST_ITEMS + 1))]},
        "rooms,place\n" + "3,INLAND\n" * (MOST_ITEMS + 1),
        "x" * (MOST_BYTES + 1),
    ],
    ids=["list", "instances", "split", "tensors", "csv", "bytes"],
)
def test_too_many_rows_are_refused(body):
    """413: one client would keep the worker from all others."""
    with pytest.raises(TooLarge, match="at most"):
        read(body)


@pytest.mark.parametrize("body", [[ROW] * MOST_ITEMS, "rooms,place\n" + "3,INLAND\n" * MOST_ITEMS], ids=["list", "csv"])
def test_as_many_rows_as_allowed_are_read(body):
    """The limit itself is within."""
    assert len(read(body).items) == MOST_ITEMS


def test_parameters_come_with_the_rows():
    """Beside a row, instances, split data, or as another field of a form."""
    split = {"columns": list(ROW), "data": [list(ROW.values())]}
    for body in ({**ROW}, {"instances": [ROW]}, split, {"inputs": TENSORS_OF_TWO}):
        assert read({**body, "parameters": {"form": "raw"}}).parameters == {"form": "raw"}
    row = {"data": b"rooms,place\n3,INLAND\n", "form": b"raw"}
    assert READER.read(row, {}, ("form",)).parameters == {"form": "raw"}
