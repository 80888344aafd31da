"""Whether an unpacked archive holds exactly the files that its record names, byte for byte.

The entry of an archive calls ``verify_files`` before it imports anything else, so this module needs the standard
library alone.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Dict, List, Optional

from handlers.errors import BrokenArchive

RECORD_NAME = "artifact.json"

_HASH_FIELD = re.compile(rb'"record_sha256": "([0-9a-f]{64})"')
_BLANK = b"0" * 64
# What Python would import or run if it lay in the model folder, which is first on a worker's module path.
_CODE = (".py", ".pyc", ".pyd", ".so", ".pth", ".zip", ".egg")


def verify_files(folder: Path) -> None:
    """Raise ``BrokenArchive`` that names every file of ``folder`` that is missing, changed or smuggled in."""
    faults = find_faults(folder, [name for name in _list_files(folder) if _is_importable(name)])
    if faults:
        raise BrokenArchive(
            "the archive is not what was packed: " + "; ".join(faults) + ". Pack it again, or fetch it again from "
            "where it was published"
        )


def find_faults(folder: Path, present: List[str]) -> List[str]:
    """Return what is wrong with the files of ``folder``, a sentence each; ``present`` are those that must be named."""
    record = folder / RECORD_NAME
    try:
        raw = record.read_bytes()
    except OSError:
        return [f"{RECORD_NAME} is missing"]
    if not is_sealed(raw):
        return [f"{RECORD_NAME} was changed (its sha256 is not the one it states)"]
    named = _read_names(raw)
    if named is None:
        return [f"{RECORD_NAME} does not say which files the archive has"]
    faults = [fault for name, digest in sorted(named.items()) for fault in _compare(folder, name, digest)]
    extra = sorted(set(present) - set(named) - {RECORD_NAME})
    return faults + [f"{name} was added (the record does not name it)" for name in extra]


def seal(raw: bytes) -> bytes:
    """Return the bytes of a record with its own sha256 filled in; the hash is over the bytes with that field zero.

    Every byte of the record is so covered: of the content by the hash, of the hash by the comparison.
    """
    if len(_HASH_FIELD.findall(raw)) != 1:
        raise BrokenArchive(f"{RECORD_NAME} must have exactly one field record_sha256 of 64 hexadecimal digits")
    blank = _fill_hash(raw, _BLANK)
    return _fill_hash(blank, hashlib.sha256(blank).hexdigest().encode())


def is_sealed(raw: bytes) -> bool:
    """Whether the bytes of a record match the sha256 that stands in them."""
    try:
        return seal(raw) == raw
    except BrokenArchive:
        return False


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _fill_hash(raw: bytes, digest: bytes) -> bytes:
    return _HASH_FIELD.sub(b'"record_sha256": "' + digest + b'"', raw)


def _read_names(raw: bytes) -> Optional[Dict[str, str]]:
    """Return file -> sha256 as a record's bytes have it, or None where they have no such thing."""
    try:
        named = json.loads(raw.decode("utf-8"))["files"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    whole = isinstance(named, dict) and all(isinstance(digest, str) for digest in named.values())
    return named if whole else None


def _compare(folder: Path, name: str, digest: str) -> List[str]:
    if name.startswith("/") or ".." in name.split("/"):
        return [f"{name} is named, which is not in the archive's folder"]
    path = folder / name
    if not path.is_file():
        return [f"{name} is missing"]
    found = hash_file(path)
    return [] if found == digest else [f"{name} was changed (sha256 {found[:12]}…, expected {digest[:12]}…)"]


def _list_files(folder: Path) -> List[str]:
    return [
        (Path(root) / name).relative_to(folder).as_posix() for root, _, names in os.walk(str(folder)) for name in names
    ]


def _is_importable(name: str) -> bool:
    # TorchServe's import of the entry leaves its bytecode in the root's __pycache__ before our code can forbid it.
    return name.endswith(_CODE) and not name.startswith("__pycache__/")
