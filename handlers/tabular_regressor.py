"""The handler for regression on tables: rows with named columns in, a number for each out."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from handlers.artifact import TensorSpec
from handlers.columns import encode_row, is_finite_number, read_columns
from handlers.errors import BadRequest, ModelError
from handlers.features import Explanation, Features, Target
from handlers.handler import Handler, Sample, Tensors
from handlers.payloads import PARAMETERS, Payload
from handlers.tables import Row, TableReader

_IDENTITY, _EXP = "none", "exp"
_SETTINGS = ("columns", "target")
_TAKEN = ("inputs", "instances", PARAMETERS)  # keys of a request that hold no column


@dataclass(frozen=True)
class Predicted:
    """What is predicted, and how the model's output becomes it: mean + std * output, transformed, within limits."""

    name: str
    unit: str = ""  # for people: "US dollars"
    transform: str = _IDENTITY  # or "exp", for a model of the logarithm
    mean: float = 0.0  # of what the model learned, before it was standardised
    std: float = 1.0
    low: Optional[float] = None  # no answer is lower
    high: Optional[float] = None  # no answer is higher
    decimals: Optional[int] = None  # of an answer; all of them by default

    def compute(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return predictions, float64, from the model's outputs."""
        values = outputs.double() * self.std + self.mean
        if self.transform == _EXP:
            values = values.exp()
        # Clamping keeps NaN, which is refused later; infinity beyond a limit becomes the limit.
        return values if self.low is None and self.high is None else values.clamp(self.low, self.high)


class TabularRegressor(Handler):
    """Takes rows by their columns' names, in any order, and answers ``{"<target's name>": number}`` for each.

    Settings: ``columns``, a list with the fields of ``handlers.columns.Column`` each, in the order of the model's
    input (batch, width of all columns); and ``target``, the fields of ``Predicted``.
    """

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        super().__init__(settings, buckets, folder)
        self.columns = read_columns(settings["columns"])[0]
        self.predicted = Predicted(**settings["target"])
        self.reader = TableReader(self.columns, ignored=(self.predicted.name,))

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings and inputs, a sentence each."""
        expected = ", ".join(_SETTINGS)
        faults = [f"settings: unknown {name!r}; expected {expected}" for name in sorted(set(settings) - set(_SETTINGS))]
        columns, more = read_columns(settings.get("columns"))
        faults += more + _find_target_faults(settings.get("target"), [column.name for column in columns])
        taken = [column.name for column in columns if column.name in _TAKEN]
        faults += [f"settings: columns: {name!r} has a meaning of its own in requests; rename it" for name in taken]
        width = sum(column.width for column in columns)
        if not more and (len(inputs) != 1 or tuple(inputs[0].shape[1:]) != (width,)):
            found = ", ".join(str(("batch", *spec.shape[1:])) for spec in inputs) or "none"
            faults.append(f"inputs: found {found}, expected one of shape ('batch', {width}), the width of the columns")
        return faults

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return what is wrong with the outputs, if anything is: there has to be one number for each row."""
        shapes = [list(output.shape) for output in outputs]
        if len(outputs) == 1 and shapes[0][1:] in ([], [1]):
            return []
        return [f"the model returns outputs of the shapes {shapes}, expected one: (batch,) or (batch, 1)"]

    def read(self, row: Mapping[str, Any], content_types: Mapping[str, str]) -> Payload:
        """Return a request's rows, checked; see ``TableReader.read``."""
        return self.reader.read(row, content_types, self.parameters)

    def preprocess(self, item: Row) -> Tuple[np.ndarray]:
        """Return one row's input, float32 (width of all columns,)."""
        return (encode_row(self.columns, item),)

    def activate(self, outputs: Tensors) -> Tensors:
        """Return predictions in the target's unit, float64 (batch,)."""
        return (self.predicted.compute(outputs[0]).reshape(len(outputs[0])),)

    def postprocess(self, outputs: Tensors) -> Dict[str, float]:
        """Return ``{name: number}``; raise ``ModelError`` where the model gave no finite one."""
        value = float(outputs[0])
        if not math.isfinite(value):
            raise ModelError(f"the model gave a {self.predicted.name} that is not a finite number for this row")
        return {
            self.predicted.name: value if self.predicted.decimals is None else round(value, self.predicted.decimals)
        }

    def as_array(self, outputs: Tensors, note: Any) -> np.ndarray:
        """Return the prediction for one row, float64 (), so that npy has the shape (rows,)."""
        return np.array(self.postprocess(outputs)[self.predicted.name], dtype=np.float64)

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return answers as one KServe v2 tensor of shape [rows]."""
        values = [answer[self.predicted.name] for answer in answers]
        return [{"name": self.predicted.name, "datatype": "FP64", "shape": [len(values)], "data": values}]

    def columns_by_position(self) -> Tuple[str, ...]:
        """Return for each position of the model's input the name of the column that it belongs to."""
        return tuple(column.name for column in self.columns for _ in range(column.width))

    def baseline(self) -> np.ndarray:
        """Return the input, float32 (width of all columns,), in which every column is left out.

        An optional column is missing, as in a request without it; any other is at its ``fill``, or its mean.
        """
        return encode_row(self.columns, [None] * len(self.columns))

    def features(self, sample: Sample, parameters: Mapping[str, Any]) -> Features:
        """Return the columns; left out, each is as in ``baseline``."""
        names = [column.name for column in self.columns]
        groups = np.array([names.index(name) for name in self.columns_by_position()])
        return Features((groups,), (self.baseline(),), tuple(names))

    def targets(self, payload: Payload, outputs: Sequence[Tensors]) -> List[Target]:
        """Return the prediction, in the target's unit, for each row."""
        wanted = payload.parameters.get("target", self.predicted.name)
        if wanted != self.predicted.name:
            raise BadRequest(f"the target is {str(wanted)[:40]!r}, expected {self.predicted.name!r}; or leave it out")
        return [Target(self.predicted.name, lambda found: found[0].reshape(-1)) for _ in outputs]

    def present(self, explanation: Explanation, features: Features, item: Any, accept: str) -> Any:
        """Return ``columns``: ``{"weight", "error"}`` by the column's name, in the target's unit."""
        return {**explanation.describe(), "columns": dict(zip(features.names, explanation.weights()))}


def _find_target_faults(given: Any, columns: Sequence[str]) -> List[str]:
    what = "settings: target"
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"]:
        return [f"{what}: expected an object with the name of what is predicted"]
    known = [each.name for each in fields(Predicted)]
    faults = [f"{what}: unknown {name!r}; expected {', '.join(known)}" for name in sorted(set(given) - set(known))]
    if given["name"] in columns:
        faults.append(f"{what}: {given['name']!r} is one of the columns as well")
    if given.get("transform", _IDENTITY) not in (_IDENTITY, _EXP):
        faults.append(f"{what}: transform is {given['transform']!r}, expected {_IDENTITY!r} or {_EXP!r}")
    for name in ("mean", "std", "low", "high"):
        value = given.get(name, 1)
        if value is not None and not is_finite_number(value):
            faults.append(f"{what}: {name} is {value!r}, expected a number")
    if not faults and given.get("std", 1) <= 0:
        faults.append(f"{what}: std is {given['std']!r}, expected a number over 0")
    decimals = given.get("decimals")
    if decimals is not None and (isinstance(decimals, bool) or not isinstance(decimals, int)):
        faults.append(f"{what}: decimals is {decimals!r}, expected a whole number")
    return faults
