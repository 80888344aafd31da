"""From a request's body to rows of a table: JSON by column names, pandas' split form, KServe v1 and v2, CSV.

All that is wrong with a request is told in one message: a client sees every fault at once, with its row and field.
"""

import csv
import difflib
import io
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from handlers.columns import CATEGORY, Column, Value, shown
from handlers.errors import BadRequest, TooLarge
from handlers.payloads import (
    LIST,
    PARAMETERS,
    PLAIN,
    Payload,
    check_count,
    describe,
    pick_parameters,
    read_body,
    read_json_items,
    shorten,
)

MOST_BYTES = 4 * 1024 * 1024  # of a request: 32 kB for each of the rows that it may have
Row = Tuple[Value, ...]  # a value for each column, in their order

_MOST_FAULTS = 5  # in one message
# What float() takes besides is no number of a table: "nan", "infinity", "1_000" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NUMERIC_DATATYPES = ("FP", "INT", "UINT")  # how KServe v2's names of number types begin
_EXAMPLE = 'send {"column": value, ...}, a list of such objects, or CSV whose first line names the columns'


@dataclass(frozen=True)
class TableReader:
    """Reads the rows of a table from requests."""

    columns: Tuple[Column, ...]
    ignored: Tuple[str, ...] = ()  # columns that a request may have besides, such as what is to be predicted

    def read(self, row: Mapping[str, Any], content_types: Mapping[str, str], known: Sequence[str] = ()) -> Payload:
        """Return a request's rows, a tuple with a value for each column each; ``known`` are names of parameters.

        Raises ``BadRequest`` that names the fields and the rows, from 1, of all faults; ``TooLarge`` for too many rows.
        """
        for value in row.values():
            if isinstance(value, (bytes, bytearray, str)) and len(value) > MOST_BYTES:
                raise TooLarge(f"the request has {len(value)} bytes, at most {MOST_BYTES} are taken; send fewer rows")
        body = read_body(row, content_types, known)
        parameters = pick_parameters(body.fields, known)
        if isinstance(body.value, bytes):
            records = _read_csv(body.value, self.columns)
            payload = Payload(records, LIST if len(records) > 1 else PLAIN, parameters=parameters)
        elif _is_split(body.value):
            payload = _read_split(body.value, known, parameters)
        else:
            payload = read_json_items(body.value, _keep, known, parameters, read_tensors=self._read_tensors, lists=True)
        return payload._replace(items=self.check_rows(payload.items))

    def check_rows(self, records: Sequence[Any]) -> List[Row]:
        """Return records, objects by column names in any order, as rows; raise ``BadRequest`` with all their faults."""
        faults: List[str] = []
        unknown: Dict[str, int] = {}  # name -> the first row that has it
        names = {column.name for column in self.columns}.union(self.ignored)
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict):
                faults.append(f"row {number}: found {describe(record)}, expected an object; {_EXAMPLE}")
                continue
            for name in record:
                if name not in names:
                    unknown.setdefault(name, number)
            found = [(column, column.find_fault(record.get(column.name))) for column in self.columns]
            faults += [f"row {number}, field {column.name!r}: {fault}" for column, fault in found if fault]
        faults = [self._tell_unknown(name, number) for name, number in unknown.items()] + faults
        _refuse(faults)
        return [tuple(record.get(column.name) for column in self.columns) for record in records]

    def _tell_unknown(self, name: str, number: int) -> str:
        names = [column.name for column in self.columns]
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the columns are {', '.join(names)}"
        return f"row {number}, field {shorten(repr(name))}: there is no such column; {hint}"

    def _read_tensors(self, tensors: List[Any]) -> List[Dict[str, Any]]:
        """Return the rows in KServe v2's list of tensors: one for each column, of shape [rows] or [rows, 1]."""
        kinds = {column.name: column.kind for column in self.columns}
        values: Dict[str, List[Any]] = {}
        for tensor in tensors:
            if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
                raise BadRequest(f"'inputs' holds {describe(tensor)}, expected a tensor with a name for each column")
            name = tensor["name"]
            if name in values:
                raise BadRequest(f"input {name!r} is there twice")
            values[name] = _read_tensor(tensor, kinds.get(name))
        lengths = {name: len(column) for name, column in values.items()}
        if len(set(lengths.values())) > 1:
            raise BadRequest(f"the inputs have different numbers of rows: {shorten(str(lengths))}")
        check_count(next(iter(lengths.values()), 0), "'inputs'")
        return [dict(zip(values, row)) for row in zip(*values.values())]


def _read_tensor(tensor: Mapping[str, Any], kind: Optional[str]) -> List[Any]:
    what, datatype = f"input {tensor['name']!r}", str(tensor.get("datatype"))
    expected = "BYTES (texts)" if kind == CATEGORY else "FP64, FP32 or INT64"
    right = datatype == "BYTES" if kind == CATEGORY else datatype.startswith(_NUMERIC_DATATYPES)
    if kind is not None and not right:
        raise BadRequest(f"{what} has datatype {shorten(datatype)}, expected {expected}")
    data, shape = tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        raise BadRequest(f"{what}: data is {describe(data)}, expected a list")
    # Data may be nested or flat, whatever the shape is.
    flat = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]
    if shape not in ([len(flat)], [len(flat), 1]):
        raise BadRequest(f"{what} has shape {shorten(str(shape))} and {len(flat)} values, expected [rows] or [rows, 1]")
    return flat


def _keep(value: Any) -> Any:
    """Return what stands for a row in JSON; rows are checked together, so that all faults are told."""
    return value


def _refuse(faults: Sequence[str], what: str = "") -> None:
    """Raise ``BadRequest`` that tells the first faults and how many more there are, if there are any."""
    if faults:
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise BadRequest(what + "; ".join(faults[:_MOST_FAULTS]) + more)


def _is_split(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("columns"), list) and "data" in value


def _read_split(value: Mapping[str, Any], known: Sequence[str], parameters: Mapping[str, Any]) -> Payload:
    """Return the records in pandas' ``to_json(orient="split")``."""
    more = value.get(PARAMETERS, {})
    if not isinstance(more, dict):
        raise BadRequest(f"'{PARAMETERS}' is {describe(more)}, expected an object")
    names, rows = value["columns"], value["data"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise BadRequest(f"'data' is {describe(rows)}, expected a list of rows, each a list of values")
    records = _name_values(names, rows, "'data'")
    return Payload(records, LIST, parameters={**parameters, **pick_parameters(more, known, strict=True)})


def _read_csv(body: bytes, columns: Sequence[Column]) -> List[Mapping[str, Any]]:
    """Return the records of a CSV file, numbers read; blank lines are skipped, a byte order mark is understood."""
    names, *rows = _split_csv(body)
    if not set(names) & {column.name for column in columns}:
        wanted = ", ".join(column.name for column in columns)
        raise BadRequest(
            f"the body is no JSON, and its first line {shown(','.join(names))} names none of the columns {wanted}; "
            f"{_EXAMPLE}"
        )
    kinds = {column.name: column.kind for column in columns}
    records = _name_values(names, rows, "the CSV")
    return [{name: _read_cell(text, kinds.get(name)) for name, text in record.items()} for record in records]


def _split_csv(body: bytes) -> List[List[str]]:
    """Return the lines of a CSV file that hold anything, the first of them the columns' names; raise ``BadRequest``."""
    if not body.strip():
        raise BadRequest(f"the request has an empty body; {_EXAMPLE}")
    try:
        text = body.decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if any(map(str.strip, line))]
    except UnicodeDecodeError as exc:
        raise BadRequest(f"the body is no text in UTF-8 ({shorten(str(exc))}); {_EXAMPLE}") from exc
    except csv.Error as exc:
        raise BadRequest(f"the body is no CSV that can be read: {shorten(str(exc))}") from exc
    return [[name.strip() for name in lines[0]], *lines[1:]] if lines else [[]]


def _name_values(names: List[Any], rows: Sequence[Sequence[Any]], what: str) -> List[Mapping[str, Any]]:
    """Return each row as a record; raise ``BadRequest`` for names that are there twice and rows of another length."""
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    faults = [f"the column {shorten(repr(name))} is there twice" for name in twice]
    faults += [f"a column's name is {shown(name)}, expected a text" for name in names if not isinstance(name, str)]
    faults += [
        f"row {number} has {len(row)} values, expected {len(names)}, one for each column"
        for number, row in enumerate(rows, 1)
        if len(row) != len(names)
    ]
    _refuse(faults, f"{what}: ")
    check_count(len(rows), what)
    return [dict(zip(names, row)) for row in rows]


def _read_cell(text: str, kind: Optional[str]) -> Value:
    """Return a cell of CSV: None where it is empty; what is no number stays a text, to be told of."""
    text = text.strip()
    if not text:
        return None
    return text if kind == CATEGORY or not _NUMBER.fullmatch(text) else float(text)
