"""The handler for models whose inputs and outputs are plain tensors with names: vectors, matrices, several of each."""

import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from handlers import arrays
from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError, NotAcceptable, TooLarge, UnsupportedType
from handlers.handler import Handler, Tensors
from handlers.payloads import (
    LIST,
    PARAMETERS,
    Payload,
    check_count,
    describe,
    pick_parameters,
    read_body,
    read_json_items,
    shorten,
)

MOST_BYTES = 8 * 1024 * 1024
_SETTINGS = {"outputs", "most_bytes"}
# KServe v2's names of types (its "Tensor Data Types"), without those of texts.
_DATATYPES = {
    **{"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "UINT8": "uint8", "UINT16": "uint16"},
    **{"UINT32": "uint32", "UINT64": "uint64", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64"},
}
_ANSWERED = {"b": "BOOL", "i": "INT64", "f": "FP32"}  # kind of an answer's values -> datatype


class NamedTensors(Handler):
    """Takes one array for each input by its name, and answers one for each output by its name.

    Settings: ``outputs``, the names of the model's outputs in their order, and ``most_bytes``, the size of the largest
    request (default 8 MiB, for npz also unpacked). An item is an object ``{"a": [1, 2], "b": 3.5}``; a request holds
    one, a list of them, or KServe's v1 or v2 form; or an npy file for a model with one input, an npz file for one with
    several, whose first dimension are the items. A dimension whose size differs between buckets may have any size up
    to the largest; all others have to be met.
    """

    def __init__(
        self, settings: Dict[str, Any], buckets: Sequence[Sequence[TensorSpec]], folder: Path = Path()
    ) -> None:
        super().__init__(settings, buckets, folder)
        self._outputs = [str(name) for name in settings["outputs"]]
        self._most_bytes = int(settings.get("most_bytes", MOST_BYTES))
        self._sizes = {each[0].name: _merge_sizes([spec.shape[1:] for spec in each]) for each in zip(*self.buckets)}

    @classmethod
    def check_settings(cls, settings: Dict[str, Any], inputs: Sequence[TensorSpec]) -> List[str]:
        """Return the faults in a recipe's settings and inputs, a sentence each."""
        faults = [
            f"settings: unknown {name!r}; expected outputs, most_bytes" for name in sorted(set(settings) - _SETTINGS)
        ]
        names = settings.get("outputs")
        if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) and n for n in names):
            faults.append("settings: expected outputs: the names of the model's outputs in their order, at least one")
        elif len(set(names)) < len(names):
            faults.append(f"settings: expected outputs: no name twice, found {list(names)}")
        most = settings.get("most_bytes", MOST_BYTES)
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            faults.append(f"settings: expected most_bytes: a whole number over 0, found {most!r}")
        taken = [spec.name for spec in inputs if spec.name in ("inputs", "instances", PARAMETERS)]
        faults += [f"inputs: {name!r} has a meaning of its own in requests; rename it" for name in taken]
        return faults

    def check_outputs(self, outputs: Tensors) -> List[str]:
        """Return what is wrong with the number of outputs, if anything is."""
        if len(outputs) == len(self._outputs):
            return []
        names = ", ".join(self._outputs)
        return [f"the model returns {len(outputs)} output(s), settings name {len(self._outputs)}: {names}"]

    def read(self, row: Mapping[str, Any], content_types: Mapping[str, str]) -> Payload:
        """Return a request's items: an object of nested lists or of arrays, by the inputs' names, each."""
        for value in row.values():
            if isinstance(value, (bytes, bytearray, str)) and len(value) > self._most_bytes:
                raise TooLarge(f"the request has {len(value)} bytes, at most {self._most_bytes} are taken")
        body = read_body(row, content_types, self.parameters)
        parameters = pick_parameters(body.fields, self.parameters)
        if not isinstance(body.value, bytes):
            known, read_tensors = self.parameters, self._read_v2
            return read_json_items(
                body.value, self._name_item, known, parameters, read_tensors=read_tensors, lists=True
            )
        items = self._split(self._read_file(body.value, body.content_type))
        return Payload(items, LIST, parameters=parameters)

    def preprocess(self, item: Any) -> Tuple[np.ndarray, ...]:
        """Return one item's arrays, in the order of the model's inputs and of their dtypes (bfloat16 as float32)."""
        return tuple(self._read_input(spec, item[spec.name]) for spec in self.inputs)

    def postprocess(self, outputs: Tensors) -> Dict[str, Any]:
        """Return one item's outputs by their names, as nested lists; raise ``ModelError`` for NaN and infinity."""
        for name, output in zip(self._outputs, outputs):
            if not bool(output.isfinite().all()):
                raise ModelError(f"the model gave a value of {name} that is not a finite number for this item")
        return {name: output.tolist() for name, output in zip(self._outputs, outputs)}

    def as_array(self, outputs: Tensors, note: Any) -> np.ndarray:
        """Return the only output of one item; raise ``NotAcceptable`` where the model has several."""
        if len(outputs) > 1:
            names = ", ".join(self._outputs)
            raise NotAcceptable(f"the model has the outputs {names}, npy holds one array; accept application/json")
        return super().as_array(outputs, note)

    def as_tensors(self, answers: Sequence[Any]) -> List[Dict[str, Any]]:
        """Return answers as KServe v2 tensors, one for each output: FP32, INT64 or BOOL, the items first."""
        return [_as_tensor(name, [answer[name] for answer in answers]) for name in answers[0]]

    def _name_item(self, value: Any) -> Mapping[str, Any]:
        """Return an item as an object with exactly the model's inputs; for one input, its value may stand alone."""
        if not isinstance(value, dict):
            if len(self.inputs) > 1 or value is None:
                raise BadRequest(f"an item is {describe(value)}, expected an object with the inputs {self._list()}")
            return {self.inputs[0].name: value}
        self._check_names(list(value))
        return value

    def _check_names(self, found: Sequence[Any]) -> None:
        missing = [spec.name for spec in self.inputs if spec.name not in found]
        unknown = [str(name) for name in found if name not in self._sizes]
        if missing or unknown:
            parts = [f"input {name!r} is missing" for name in missing]
            parts += [f"there is no input {shorten(repr(name))}" for name in unknown[:3]]
            raise BadRequest(f"{'; '.join(parts)}; the model takes {self._list()}")

    def _list(self) -> str:
        """Return what the model takes, for a message: "ids (int64 [any]), weight (float32 [])"."""
        return ", ".join(f"{s.name} ({s.dtype} {arrays.show_shape(self._sizes[s.name])})" for s in self.inputs)

    def _read_input(self, spec: TensorSpec, value: Any) -> np.ndarray:
        make = arrays.convert_array if isinstance(value, np.ndarray) else arrays.array_from_json
        return make(value, self._sizes[spec.name], spec.dtype, f"input {spec.name!r}")

    def _read_file(self, body: bytes, content_type: str) -> Dict[str, np.ndarray]:
        """Return the arrays of an npy or npz file by the inputs' names."""
        if body.startswith(arrays.NPY_MAGIC):
            if len(self.inputs) > 1:
                raise BadRequest(f"npy holds one array, the model takes {self._list()}; send npz or JSON")
            return {self.inputs[0].name: arrays.read_npy(body, "the npy file")}
        if body.startswith(arrays.ZIP_MAGIC):
            found = arrays.read_npz(body, self._most_bytes)
            self._check_names(list(found))
            return found
        if not body:
            raise BadRequest(f"the request has an empty body; send JSON with {self._list()}")
        raise UnsupportedType(
            f"the body is neither JSON nor npy nor npz (content type {shorten(content_type) or 'not given'}); send "
            f"JSON with {self._list()}"
        )

    def _read_v2(self, tensors: List[Any]) -> List[Mapping[str, Any]]:
        """Return the items of a KServe v2 request's tensors, whose first dimension they are."""
        found: Dict[str, np.ndarray] = {}
        for position, tensor in enumerate(tensors):
            name = tensor.get("name") if isinstance(tensor, dict) else None
            if not isinstance(name, str):
                raise BadRequest(f"'inputs' has {describe(tensor)} at {position}, expected a tensor with a name")
            if name in found:
                raise BadRequest(f"'inputs' names {shorten(repr(name))} twice")
            found[name] = _read_v2_tensor(tensor, f"input {shorten(repr(name))}")
        self._check_names(list(found))
        return self._split(found)

    def _split(self, found: Mapping[str, np.ndarray]) -> List[Mapping[str, Any]]:
        """Return arrays whose first dimension are the items, item by item."""
        counts = {name: len(array) if array.ndim else 0 for name, array in found.items()}
        if len(set(counts.values())) > 1 or any(not array.ndim for array in found.values()):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
            raise BadRequest(
                f"the first dimension of each input are the items, expected as many in each; found {shapes}"
            )
        count = next(iter(counts.values()))
        check_count(count, "the request")
        return [{name: array[index] for name, array in found.items()} for index in range(count)]


def _merge_sizes(shapes: Sequence[Sequence[int]]) -> Tuple[int, ...]:
    """Return an input's sizes over all buckets, -1 where they differ."""
    return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes))


def _read_v2_tensor(tensor: Mapping[str, Any], what: str) -> np.ndarray:
    """Return a KServe v2 tensor's array; its data are nested as its shape says, or flat."""
    shape, dtype, data = tensor.get("shape"), _DATATYPES.get(str(tensor.get("datatype"))), tensor.get("data")
    if dtype is None:
        found = shorten(repr(tensor.get("datatype")))
        raise BadRequest(f"{what} has datatype {found}, expected one of {', '.join(_DATATYPES)}")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        raise BadRequest(f"{what} has shape {shorten(repr(shape))}, expected whole numbers over 0, the items first")
    if not isinstance(data, list):
        raise BadRequest(f"{what} has data {describe(data)}, expected a list, flat or nested as its shape is")
    nested = any(isinstance(each, list) for each in data)
    return arrays.array_from_json(data, shape if nested else [math.prod(shape)], dtype, what).reshape(shape)


def _as_tensor(name: str, values: Sequence[Any]) -> Dict[str, Any]:
    try:
        array = np.array(values)
        kind = _ANSWERED[array.dtype.kind]
    except (ValueError, KeyError) as exc:
        raise BadRequest(
            f"the items' outputs {name} have different shapes, which one tensor cannot hold; send one item at a time, "
            'or ask in the form {"instances": [...]}'
        ) from exc
    return {"name": name, "datatype": kind, "shape": list(array.shape), "data": array.ravel().tolist()}
