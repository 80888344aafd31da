"""Archives with a few small members, keys, and signatures, as the tests of signing want them."""

import dataclasses
import hashlib
import json
from pathlib import Path

from handlers import artifact, integrity
from serving.signatures import signature_path
from serving.signing import MANIFEST, KeyPair, create_keys, load_private_key, sign_archive
from tests.archives import write_members
from tests.forging import make_record


def small_members(name: str = "tiny", version: str = "1.0") -> dict[str, bytes]:
    """Return the members of a sealed archive that is too small to serve."""
    manifest = {"model": {"modelName": name, "modelVersion": version, "handler": "torchserve_entry.py"}}
    members = {
        MANIFEST: json.dumps(manifest).encode(),
        "golden/0-a.png": b"picture",
        "modules/a.pt": b"weights " * 20,
        "modules/b.pt": b"more weights",
        "torchserve_entry.py": b"print('code')\n",
    }
    files = {each: hashlib.sha256(content).hexdigest() for each, content in members.items()}
    record = dataclasses.replace(make_record(name=name, version=version), files=files)
    return {**members, integrity.RECORD_NAME: artifact.dump_record(record)}


def small_archive(folder: Path, name: str = "tiny", version: str = "1.0") -> Path:
    """Write such an archive as ``NAME.mar``."""
    return write_members(small_members(name, version), folder / f"{name}.mar")


def make_keys(folder: Path) -> KeyPair:
    """Return a new key without a passphrase."""
    return create_keys(folder)


def sign(archive: Path, keys: KeyPair) -> Path:
    """Sign an archive and return the signature's file."""
    sign_archive(archive, load_private_key(keys.private, ask=lambda: b""))
    return signature_path(archive)
