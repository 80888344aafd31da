"""The columns of a table, as a recipe describes them: which values they take, and how these become a model's input."""

import math
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

NUMERIC, CATEGORY = "numeric", "category"
LINEAR, LOG = "linear", "log"
Value = Union[float, str, None]  # of a cell: a number, a category, or None where it is missing

_NUMBERS = ("mean", "std", "fill", "low", "high")


@dataclass(frozen=True)
class Column:
    """One column: a number that is standardised, or a category that becomes a one-hot vector.

    A number x has the scaled value s = x, or log(1 + x) with ``scale="log"``, and becomes z = (s - mean) / std; then
    sin and cos of frequency * z for each of the ``waves``; then, if the column is optional, 1 where it is missing and
    0 where it is not. A category becomes a 1 in its place, and zeros only where it is missing.
    """

    name: str
    kind: str = NUMERIC  # or "category"
    optional: bool = False  # whether a row may lack it
    categories: Tuple[str, ...] = ()  # that there are, in the order of the one-hot vector
    scale: str = LINEAR  # of a number; "log" makes ratios of large numbers into differences
    mean: float = 0.0  # of the scaled values
    std: float = 1.0  # of the scaled values
    fill: Optional[float] = None  # what a missing number counts as; by default the mean
    low: Optional[float] = None  # the least number that is taken
    high: Optional[float] = None  # the largest number that is taken
    waves: Tuple[float, ...] = ()  # frequencies, in radians for each standard deviation

    @property
    def width(self) -> int:
        """How many values of the model's input the column gives."""
        return len(self.categories) if self.kind == CATEGORY else 1 + 2 * len(self.waves) + int(self.optional)

    def encode(self, value: Value) -> List[float]:
        """Return the column's part of the model's input for a value that ``find_fault`` lets pass."""
        if self.kind == CATEGORY:
            return [float(value == each) for each in self.categories]
        z = self._standardise(self.fill if value is None else float(value))
        waves = [wave(frequency * z) for frequency in self.waves for wave in (math.sin, math.cos)]
        return [z, *waves, *([float(value is None)] if self.optional else [])]

    def find_fault(self, value: Any) -> str:
        """Return what is wrong with a value, "found ..., expected ...", or ""; a missing one is None."""
        if value is None:
            return "" if self.optional else f"nothing found, expected {self.expected}; this column cannot be missing"
        if self.kind == CATEGORY:
            return "" if value in self.categories else f"found {shown(value)}, expected {self.expected}"
        if not _is_number(value):
            return f"found {shown(value)}, expected a number"
        if not _is_finite(value):
            hint = ", or null (in CSV: nothing) where the value is missing" if self.optional else ""
            return f"found {shown(value)}, expected a finite number{hint}"
        inside = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        return "" if inside else f"found {shown(value)}, expected {self.expected}"

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        if self.kind == CATEGORY:
            return f"one of {', '.join(map(repr, self.categories))}"
        low = "" if self.low is None else f" of at least {self.low:g}"
        high = "" if self.high is None else f" of at most {self.high:g}"
        return f"a number{low}{' and' if low and high else ''}{high}"

    def _standardise(self, value: Optional[float]) -> float:
        if value is None:
            return 0.0  # the mean
        scaled = math.log1p(value) if self.scale == LOG else value
        return (scaled - self.mean) / self.std


def read_columns(settings: Any) -> Tuple[Tuple[Column, ...], List[str]]:
    """Return the columns that a recipe's setting describes, and its faults, a sentence each; none of both is empty."""
    if not isinstance(settings, (list, tuple)) or not settings:
        return (), ["settings: expected columns: a list of objects with a name each, at least one"]
    faults: List[str] = []
    columns = []
    for number, each in enumerate(settings):
        found = _find_column_faults(each)
        faults += [f"settings: columns[{number}]: {fault}" for fault in found]
        if not found:
            columns.append(Column(**{name: _frozen(value) for name, value in each.items()}))
    names = [column.name for column in columns]
    faults += [f"settings: columns: {name!r} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    return tuple(columns), faults


def encode_row(columns: Sequence[Column], values: Sequence[Value]) -> np.ndarray:
    """Return one row's input, float32 (width of all columns,), from a value for each column."""
    parts = [part for column, value in zip(columns, values) for part in column.encode(value)]
    return np.array(parts, dtype=np.float32)


def shown(value: Any) -> str:
    """Return a value for a message, in at most 40 characters."""
    text = repr(value) if not isinstance(value, (dict, list)) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 40 else text[:37] + "..."


def is_finite_number(value: Any) -> bool:
    """Return whether a value is a number, no boolean, and finite."""
    return _is_number(value) and _is_finite(value)


def _find_column_faults(given: Any) -> List[str]:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"].strip():
        return [f"found {shown(given)}, expected an object with a name"]
    known = [each.name for each in fields(Column)]
    faults = [f"unknown {name!r}; expected {', '.join(known)}" for name in sorted(set(given) - set(known))]
    kind = given.get("kind", NUMERIC)
    if kind not in (NUMERIC, CATEGORY):
        faults.append(f"kind is {kind!r}, expected {NUMERIC!r} or {CATEGORY!r}")
    if not isinstance(given.get("optional", False), bool):
        faults.append(f"optional is {given['optional']!r}, expected true or false")
    return faults + (_find_category_faults(given) if kind == CATEGORY else _find_number_faults(given))


def _find_category_faults(given: Mapping[str, Any]) -> List[str]:
    names = given.get("categories")
    texts = isinstance(names, (list, tuple)) and all(isinstance(each, str) and each for each in names)
    if not texts or not names or len(set(names)) < len(names):
        return [f"categories is {shown(names)}, expected a list of texts, none twice"]
    numeric = sorted({*_NUMBERS, "scale", "waves"} & set(given))
    return [f"a category has no {', '.join(numeric)}"] if numeric else []


def _find_number_faults(given: Mapping[str, Any]) -> List[str]:
    finite = {name: given[name] for name in _NUMBERS if given.get(name) is not None}
    faults = [
        f"{name} is {value!r}, expected a number" for name, value in finite.items() if not is_finite_number(value)
    ]
    if "categories" in given:
        faults.append("only a category has categories; say kind='category'")
    if given.get("scale", LINEAR) not in (LINEAR, LOG):
        faults.append(f"scale is {given['scale']!r}, expected {LINEAR!r} or {LOG!r}")
    waves = given.get("waves", ())
    if not isinstance(waves, (list, tuple)) or not all(is_finite_number(each) for each in waves):
        faults.append(f"waves is {shown(waves)}, expected a list of numbers")
    return faults or _find_order_faults(given, finite)


def _find_order_faults(given: Mapping[str, Any], numbers: Dict[str, Any]) -> List[str]:
    faults = []
    if numbers.get("std", 1) <= 0:
        faults.append(f"std is {numbers['std']!r}, expected a number over 0")
    low, high = numbers.get("low", -math.inf), numbers.get("high", math.inf)
    if low > high:
        faults.append(f"low is {low!r} and high {high!r}, expected low to be the smaller one")
    elif not low <= numbers.get("fill", low) <= high:
        faults.append(f"fill is {numbers['fill']!r}, expected a number within low and high")
    if given.get("scale") == LOG and numbers.get("low", -1) <= -1:
        faults.append("scale 'log' takes log(1 + x): it needs a low over -1")
    return faults


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of JSON beyond any float
        return False


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
