"""Archives changed on purpose: with their zip intact, and sealed again or not."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from handlers import artifact, integrity
from tracing.archiving import MANIFEST

Change = Callable[[bytes], bytes]


def read_members(archive: Path) -> dict[str, bytes]:
    """Return the content of every member by its name."""
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def write_members(members: Mapping[str, bytes], archive: Path) -> Path:
    """Write a zip with correct checksums, as the kit does: stored."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return archive


def tamper(archive: Path, copy: Path, changes: Mapping[str, Change]) -> Path:
    """Write a copy with some members changed, or added, and the record as it was."""
    members = read_members(archive)
    members.update({name: change(members.get(name, b"")) for name, change in changes.items()})
    return write_members(members, copy)


def reseal(archive: Path, copy: Path, changes: Mapping[str, Change] | None = None, **record: Any) -> Path:
    """Write a copy with changed members and record whose hashes are all right, as a careful forger would."""
    members = read_members(archive)
    members.update({name: change(members.get(name, b"")) for name, change in (changes or {}).items()})
    old = artifact.parse_record(members[integrity.RECORD_NAME])
    files = {
        name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != integrity.RECORD_NAME
    }
    members[integrity.RECORD_NAME] = artifact.dump_record(dataclasses.replace(old, files=files, **record))
    return write_members(members, copy)


def with_version(archive: Path, copy: Path, version: str, **record: Any) -> Path:
    """Write a copy that is another version of the model."""

    def change(manifest: bytes) -> bytes:
        content = json.loads(manifest)
        content["model"]["modelVersion"] = version
        return json.dumps(content).encode()

    return reseal(archive, copy, {MANIFEST: change}, version=version, **record)


def flip_byte(position: int, bits: int = 1) -> Change:
    """Return a change of one byte."""
    return lambda content: content[:position] + bytes([content[position] ^ bits]) + content[position + 1 :]
