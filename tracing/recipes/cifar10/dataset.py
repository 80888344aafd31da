"""CIFAR-10 from the files in which people have it, as arrays."""

import io
import pickle
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Split(NamedTuple):
    """Pictures, uint8 of shape (N, 32, 32, 3) in RGB, and their classes, int64 of shape (N,)."""

    images: np.ndarray
    labels: np.ndarray


def load_split(path: Path, name: str) -> Split:
    """Return the split ``"train"`` or ``"test"`` of the data set at ``path``.

    ``path`` is the official Python archive (``cifar-10-python.tar.gz``), the folder it unpacks to
    (``cifar-10-batches-py``), or an ``.npz`` with ``{split}_jpeg``, ``{split}_offset``, ``{split}_label``
    and ``classes``. Raises ``FileNotFoundError`` or ``ValueError`` that says which of the three was looked for.
    """
    if name not in ("train", "test"):
        raise ValueError(f"load_split: split {name!r}, expected 'train' or 'test'")
    if not path.exists():
        raise FileNotFoundError(
            f"no CIFAR-10 data at {path}: expected cifar-10-python.tar.gz, the folder cifar-10-batches-py, or an .npz "
            "of JPEGs; name it with --data"
        )
    if path.suffix == ".npz":
        return _read_npz(path, name)
    batches = ["test_batch"] if name == "test" else [f"data_batch_{n}" for n in range(1, 6)]
    return _join([_read_batch(path, batch) for batch in batches])


def encoded_images(path: Path, name: str) -> list[bytes]:
    """Return the pictures of a split as image files: the JPEGs of an ``.npz`` as they are, else PNGs."""
    if path.suffix == ".npz":
        with np.load(path) as data:
            return _jpegs(data, name)
    return [_png(image) for image in load_split(path, name).images]


def _read_npz(path: Path, name: str) -> Split:
    with np.load(path) as data:
        stored = tuple(str(label) for label in data["classes"])
        if stored != CLASSES:
            raise ValueError(f"{path}: classes {stored}, expected {CLASSES}")
        images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in _jpegs(data, name)])
        return Split(images, data[f"{name}_label"].astype(np.int64))


def _jpegs(data: "np.lib.npyio.NpzFile", name: str) -> list[bytes]:
    blob, offsets = data[f"{name}_jpeg"], data[f"{name}_offset"]
    return [bytes(blob[start:end]) for start, end in pairwise(offsets)]


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for the official batches: NumPy arrays and plain containers, nothing that can run code."""

    _ALLOWED = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise ValueError(f"the CIFAR-10 batch asks for {module}.{name}; only NumPy arrays are expected in it")
        return super().find_class(module, name)


def _read_batch(path: Path, batch: str) -> Split:
    if path.is_dir():
        with (path / batch).open("rb") as stream:
            return _decode_batch(stream)
    with tarfile.open(path) as archive:
        stream = archive.extractfile(f"cifar-10-batches-py/{batch}")
        if stream is None:
            raise ValueError(f"{path}: cifar-10-batches-py/{batch} is no file in this archive")
        return _decode_batch(stream)  # type: ignore[arg-type]  # an ExFileObject reads like any binary file


def _decode_batch(stream: BinaryIO) -> Split:
    content = _ArraysOnly(stream, encoding="bytes").load()
    images = content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), np.asarray(content[b"labels"], dtype=np.int64))


def _join(parts: list[Split]) -> Split:
    return Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
