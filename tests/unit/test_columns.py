"""Columns of tables: settings checked, values encoded."""

import math

import numpy as np
import pytest

from handlers.columns import Column, encode_row, read_columns

GOOD = {"name": "rooms", "mean": 2, "std": 0.5, "scale": "log", "low": 0, "high": 9.0, "fill": 3, "waves": [1]}
PLACE = {"name": "place", "kind": "category", "categories": ["a", "b"]}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": ""}, "expected an object with a name"),
        ({"kind": "text"}, "kind is 'text', expected 'numeric' or 'category'"),
        ({"optional": 1}, "optional is 1, expected true or false"),
        ({"std": 0}, "std is 0, expected a number over 0"),
        ({"mean": "x"}, "mean is 'x', expected a number"),
        ({"fill": True}, "fill is True, expected a number"),
        ({"high": float("nan")}, "high is nan, expected a number"),
        ({"low": 20}, "low is 20 and high 9.0, expected low to be the smaller one"),
        ({"fill": 10}, "fill is 10, expected a number within low and high"),
        ({"scale": "root"}, "scale is 'root', expected 'linear' or 'log'"),
        ({"low": -1}, "it needs a low over -1"),
        ({"low": None}, "it needs a low over -1"),
        ({"waves": 3}, "waves is 3, expected a list of numbers"),
        ({"categories": ["a"]}, "only a category has categories"),
        ({"sdt": 1}, "unknown 'sdt'; expected name, kind"),
    ],
)
def test_each_wrong_field_of_a_column_is_named(changes, fault):
    """With the column's place in the list."""
    _, (found,) = read_columns([PLACE, {**GOOD, **changes}])
    assert found.startswith("settings: columns[1]: ")
    assert fault in found


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        (None, "expected columns: a list"),
        ([], "at least one"),
        (["rooms"], "columns[0]: found 'rooms', expected an object with a name"),
        ([{"name": "x", "kind": "category"}], "categories is None, expected a list of texts"),
        ([{**PLACE, "categories": ["a", "a"]}], "none twice"),
        ([{**PLACE, "mean": 3}], "a category has no mean"),
        ([GOOD, GOOD], "'rooms' is there twice"),
    ],
)
def test_each_wrong_list_of_columns_is_named(columns, fault):
    """A recipe's author reads what is wrong."""
    _, (found,) = read_columns(columns)
    assert fault in found


def test_good_columns_are_read():
    """From JSON's lists, in their order."""
    columns, faults = read_columns([GOOD, PLACE])
    assert faults == []
    assert [(column.name, column.width) for column in columns] == [("rooms", 3), ("place", 2)]


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (Column("x"), 3, [3]),
        (Column("x", mean=1, std=4), 3.0, [0.5]),
        (Column("x", scale="log", mean=1, std=2, low=0), math.e - 1, [0.0]),
        (Column("x", waves=(2.0, 3.0)), 0.5, [0.5, math.sin(1), math.cos(1), math.sin(1.5), math.cos(1.5)]),
        (Column("x", optional=True, mean=1), 3, [2, 0]),
        (Column("x", optional=True, mean=1, fill=5), None, [4, 1]),
        (Column("x", optional=True, mean=1), None, [0, 1]),
        (Column("x", optional=True, waves=(1.0,)), None, [0, 0, 1, 1]),
        (Column("x", kind="category", categories=("a", "b", "c")), "b", [0, 1, 0]),
        (Column("x", kind="category", categories=("a", "b"), optional=True), None, [0, 0]),
    ],
)
def test_a_value_is_encoded(column, value, expected):
    """Standardised, with its waves, and marked where it is missing; a category one-hot."""
    assert column.find_fault(value) == "" or not column.optional
    found = column.encode(value)
    assert len(found) == column.width
    assert np.allclose(found, expected)


def test_a_row_is_its_columns_side_by_side():
    """As float32, in the columns' order."""
    row = encode_row([Column("x", optional=True), Column("y", kind="category", categories=("a", "b"))], [3, "b"])
    assert row.dtype == np.float32
    assert row.tolist() == [3, 0, 0, 1]
