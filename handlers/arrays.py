"""Arrays that clients send, as JSON, npy or npz: checked against what a model takes, every fault named by its place."""

import io
import zipfile
import zlib
from itertools import chain
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch

from handlers.errors import BadRequest, TooLarge
from handlers.payloads import describe, shorten

NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK\x03\x04"
# JSON tells 1 from 1.0 by chance only, so that a float input takes whole numbers; no other kind takes another's.
_TAKES = {
    "b": ((bool,), "b", "true or false"),
    "i": ((int,), "iu", "a whole number"),
    "f": ((int, float), "fiu", "a number"),
}


def array_from_json(value: Any, sizes: Sequence[int], dtype: str, what: str) -> np.ndarray:
    """Return nested lists of JSON as an array of ``dtype``, bfloat16 as float32.

    ``sizes`` are the dimensions' sizes, -1 for one that may have any; ``what`` begins the message. Raises
    ``BadRequest`` for another shape, lists of unequal lengths, values of another kind, and numbers that are not finite
    or out of the type's range.
    """
    level, shape = _flatten(value, sizes, what)
    types, _, expected = _TAKES[_kind(dtype)]
    if not set(map(type, level)) <= set(types):
        index = next(i for i, each in enumerate(level) if type(each) not in types)
        raise BadRequest(f"{what}{_place(index, shape)} is {describe(level[index])}, expected {expected}")
    if _kind(dtype) == "b":
        return np.array(level, dtype=bool).reshape(shape)
    low, high = _limits(dtype)
    # Python's own numbers, because those of any size can stand in JSON; not a number is outside of all limits.
    if not all(low <= each <= high for each in level):
        index = next(i for i, each in enumerate(level) if not low <= each <= high)
        raise BadRequest(_tell_range(level[index], f"{what}{_place(index, shape)}", dtype))
    return np.array(level, dtype=_numpy_type(dtype)).reshape(shape)


def convert_array(array: np.ndarray, sizes: Sequence[int], dtype: str, what: str) -> np.ndarray:
    """Return an array as one of ``dtype``, bfloat16 as float32; the same rules and errors as ``array_from_json``."""
    if len(array.shape) != len(sizes) or not all(_fits(*pair) for pair in zip(array.shape, sizes)):
        raise BadRequest(f"{what} has shape {list(array.shape)}, expected {show_shape(sizes)}")
    _, kinds, expected = _TAKES[_kind(dtype)]
    if array.dtype.kind not in kinds:
        raise BadRequest(f"{what} has dtype {array.dtype.name}, expected {expected} at each place, for {dtype}")
    if _kind(dtype) != "b" and array.size:
        low, high = _limits(dtype)
        wrong = _outside(array, low, high)
        if wrong.any():
            index = int(wrong.argmax())
            raise BadRequest(_tell_range(array.flat[index], f"{what}{_place(index, array.shape)}", dtype))
    return array.astype(_numpy_type(dtype))


def read_npy(body: bytes, what: str) -> np.ndarray:
    """Return the array in an npy file, which is never unpickled; raise ``BadRequest`` where it is no plain one."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        # Version 3 differs in names of fields alone, which no plain array has.
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except Exception as exc:  # the header is a Python literal, which can be wrong in any way
        raise BadRequest(f"{what} is no npy file that can be read: {shorten(str(exc))}") from exc
    if dtype.kind not in "biuf":
        raise BadRequest(f"{what} has dtype {shorten(str(dtype))}, expected numbers or booleans")
    count, start = 1, stream.tell()
    for size in shape:
        count *= int(size)
    if count * dtype.itemsize != len(body) - start or any(size < 0 for size in shape):
        raise BadRequest(
            f"{what} has {len(body) - start} bytes of data, its shape {shorten(str(list(shape)))} and dtype "
            f"{dtype.name} need {shorten(str(count * dtype.itemsize))}"
        )
    flat = np.frombuffer(body, dtype=dtype, offset=start, count=count)
    return flat.reshape(shape, order="F" if fortran else "C")


def read_npz(body: bytes, most_bytes: int) -> Dict[str, np.ndarray]:
    """Return the arrays in an npz file by their names; raise ``BadRequest`` where it is none.

    Raises ``TooLarge`` before more than ``most_bytes`` are unpacked, whatever the file says of its size.
    """
    found: Dict[str, np.ndarray] = {}
    left = most_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            for member in archive.infolist():
                name = member.filename[:-4] if member.filename.endswith(".npy") else member.filename
                what = f"the npz file's member {shorten(repr(name))}"
                # What numpy writes; other methods may ask for gigabytes before they unpack a byte.
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadRequest(f"{what} is compressed by another method than numpy's; use numpy.savez_compressed")
                if name in found:
                    raise BadRequest(f"{what} is there twice")
                with archive.open(member) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise TooLarge(f"the npz file unpacks to more than {most_bytes} bytes; send fewer items at a time")
                found[name] = read_npy(content, what)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError, OSError) as exc:
        raise BadRequest(f"the body is no npz file that can be read: {shorten(str(exc))}") from exc
    return found


def show_shape(sizes: Sequence[int]) -> str:
    """Return sizes for a message: "[any, 4]"."""
    return "[" + ", ".join("any" if size == -1 else str(size) for size in sizes) + "]"


def _flatten(value: Any, sizes: Sequence[int], what: str) -> Tuple[List[Any], List[int]]:
    """Return the values in nested lists and their shape, level by level: ten times faster than one by one."""
    level: List[Any] = [value]
    shape: List[int] = []
    for size in sizes:
        if set(map(type, level)) != {list}:
            index = next(i for i, each in enumerate(level) if type(each) is not list)
            raise BadRequest(
                f"{what}{_place(index, shape)} is {describe(level[index])}, expected a list: the shape is "
                f"{show_shape(sizes)}"
            )
        wanted = len(level[0]) or 1 if size == -1 else size
        index = next((i for i, each in enumerate(level) if len(each) != wanted), -1)
        if index >= 0:
            raise BadRequest(
                f"{what}{_place(index, shape)} is a list of {len(level[index])}, expected {wanted}: the shape is "
                f"{show_shape(sizes)}"
            )
        shape.append(wanted)
        level = list(chain.from_iterable(level))
    return level, shape


def _place(index: int, shape: Sequence[int]) -> str:
    return "".join(f"[{each}]" for each in np.unravel_index(index, tuple(shape))) if shape else ""


def _fits(found: int, size: int) -> bool:
    return found >= 1 if size == -1 else found == size


def _kind(dtype: str) -> str:
    return "b" if dtype == "bool" else "i" if "int" in dtype else "f"


def _limits(dtype: str) -> Tuple[Any, Any]:
    torch_type = getattr(torch, dtype)
    limits = torch.finfo(torch_type) if _kind(dtype) == "f" else torch.iinfo(torch_type)
    return limits.min, limits.max


def _outside(array: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Return which numbers are out of range, those that are none among them.

    Limits beyond what the array's own type holds are not compared with.
    """
    wrong: np.ndarray
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            wide = array.astype(np.float64)
        wrong = ~((wide >= low) & (wide <= high))
    else:
        own = np.iinfo(array.dtype)
        wrong = (array < max(low, own.min)) | (array > min(high, own.max))
    return wrong


def _tell_range(found: Any, place: str, dtype: str) -> str:
    low, high = _limits(dtype)
    limits = f"{low:.4g} to {high:.4g}" if _kind(dtype) == "f" else f"{low} to {high}"
    return f"{place} is {shorten(str(found))}, expected {_TAKES[_kind(dtype)][2]} that {dtype} holds: {limits}"


def _numpy_type(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype
