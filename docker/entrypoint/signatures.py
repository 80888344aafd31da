"""Whether an archive is, byte for byte, what the holder of a trusted key has signed.

``cifar10.mar`` has its signature beside it in ``cifar10.mar.sig``: JSON with a statement about the archive, the sha256
of the whole file among it, and the Ed25519 signature of that statement. Nothing of an archive is unpacked here.

This file is in ``serving/`` for the kit and in ``docker/entrypoint/`` for images, which are without the kit; a test
holds the two equal. So: Python 3.8, the standard library, and the package ``cryptography`` where a key is needed.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Dict, Iterator, List, Optional, Sequence

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "torchserve-neuron signature 1"
SUFFIX = ".sig"
# Stands before the statement in what is signed, so that a key's signature of anything else is none of an archive.
_DOMAIN = b"torchserve-neuron statement about an archive, format 1\0"
_MOST = (
    16_384  # bytes of a signature, of which about 700 are used, or of a key; nobody's disk image is read into memory
)
_BLOCK = 1 << 20


class SignatureFault(Exception):
    """An archive is not signed as the host demands; the message says what was found, where, and what to do."""


@dataclass(frozen=True)
class Statement:
    """What a signature says of an archive."""

    archive: str  # the file's name, without folder
    archive_sha256: str  # of the whole file
    archive_size: int  # bytes
    model: str
    version: str
    record_sha256: str  # of artifact.json, the list of the digests of all files, as it states it of itself

    def to_sign(self) -> bytes:
        """Return the bytes that are signed: the same for equal statements, and never those of anything else."""
        return _DOMAIN + json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":")).encode("ascii")


@dataclass(frozen=True)
class Signature:
    """The content of a ``.sig`` file."""

    statement: Statement
    key: str  # id of the key that signed, see ``key_id``
    value: bytes  # 64, of Ed25519

    def render(self) -> bytes:
        """Return the file's bytes: the same for equal signatures, and the only ones that ``read_signature`` takes."""
        content = {
            "format": FORMAT,
            "key": self.key,
            "signature": base64.b64encode(self.value).decode("ascii"),
            "statement": dataclasses.asdict(self.statement),
        }
        return json.dumps(content, indent=2, sort_keys=True).encode("ascii") + b"\n"


def verify_archive(archive: Path, trusted: Sequence[Path], *, copy: Optional[Path] = None) -> str:
    """Return the id of the key, one of the ``trusted``, that signed exactly this archive; raise ``SignatureFault``.

    ``trusted`` are files of public keys and folders of such files. ``copy`` gets what was verified: from where others
    may write, only the copy is sure to be still what was signed when it is opened again.
    """
    return verify(archive, trusted, copy=copy).key


def verify(archive: Path, trusted: Sequence[Path], *, copy: Optional[Path] = None) -> Signature:
    """Return the signature that ``verify_archive`` found good."""
    keys = load_trusted(trusted)
    path = signature_path(archive)
    signature = read_signature(archive)
    if signature.key not in keys:
        raise SignatureFault(
            f"{path} is of key {signature.key}, which is not trusted here (trusted: {', '.join(sorted(keys))}); "
            "fetch the archive from who holds a trusted key, or trust that key if you know whose it is"
        )
    if not _is_signed(signature, keys[signature.key]):
        raise SignatureFault(f"{path} was altered: key {signature.key} did not sign what it says; fetch it again")
    if signature.statement.archive != archive.name:
        raise SignatureFault(
            f"{path} is the signature of another archive, {signature.statement.archive} (model "
            f"{signature.statement.model} {signature.statement.version}); both files must keep the names they had"
        )
    _ensure_content(archive, signature.statement, copy)
    return signature


def signature_path(archive: Path) -> Path:
    """Return where the signature of an archive lies."""
    return archive.with_name(archive.name + SUFFIX)


def read_signature(archive: Path) -> Signature:
    """Return the signature beside an archive, well-formed but not verified; raise ``SignatureFault``."""
    path = signature_path(archive)
    if not os.path.lexists(str(path)):
        raise SignatureFault(
            f"{archive} is not signed: there is no {path}; sign it where it was built (torchserve-neuron sign "
            f"{archive.name} --key FILE), or fetch {path.name} too from where it was published"
        )
    raw = _read_small(path)
    try:
        content = json.loads(raw.decode("ascii"))
        found = content["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise SignatureFault(
            f"{path} is no signature ({type(exc).__name__}); expected JSON of format {FORMAT!r}"
        ) from exc
    if found != FORMAT:
        raise SignatureFault(f"{path} has format {found!r}, this reads {FORMAT!r}; sign the archive again")
    signature = _decode(content)
    # One form only: what a signature does not cover, blanks and the order of keys, must not vary either.
    if signature is None or signature.render() != raw:
        raise SignatureFault(f"{path} was altered: it is not as it was written; fetch it again, or sign again")
    return signature


def load_trusted(trusted: Sequence[Path]) -> "Dict[str, Ed25519PublicKey]":
    """Return the public keys in files and in folders of ``*.pem`` files by their ids; raise ``SignatureFault``.

    A file that is no key is a fault, never passed over: whoever put it there believes that it counts.
    """
    files = [file for place in trusted for file in _list_keys(place)]
    if not files:
        raise SignatureFault("no trusted key is named; expected a file of a public key, or a folder of such files")
    keys = [load_public_key(file) for file in files]
    return {key_id(key): key for key in keys}


def load_public_key(path: Path) -> "Ed25519PublicKey":
    """Return the one Ed25519 public key in a PEM file; raise ``SignatureFault`` that says what is there instead."""
    raw = _read_small(path)
    _ensure_not_writable(path)
    if b"PRIVATE KEY" in raw:
        raise SignatureFault(
            f"{path} is a private key, which no host that serves should have; expected the public one of the pair. "
            "Remove it here"
        )
    if raw.count(b"-----BEGIN ") != 1 or b"-----BEGIN PUBLIC KEY-----" not in raw:
        raise SignatureFault(
            f"{path} is not one public key; expected one PEM block that begins with -----BEGIN PUBLIC KEY-----, "
            "as torchserve-neuron keygen writes it"
        )
    return _parse_public_key(raw, path)


def key_id(key: "Ed25519PublicKey") -> str:
    """Return a key's id: the first 16 hexadecimal digits of the sha256 of its 32 raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def open_regular(path: Path) -> BinaryIO:
    """Return an open file, followed through links; raise ``SignatureFault`` where it is none or cannot be read.

    A pipe or a device in its place would be read for ever.
    """
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise SignatureFault(f"{path} cannot be read: {exc.strerror}; expected a file") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SignatureFault(f"{path} is no regular file; expected one, or a link to one")
    return os.fdopen(descriptor, "rb")


def _parse_public_key(raw: bytes, path: Path) -> "Ed25519PublicKey":
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as exc:
        raise SignatureFault(
            f"signatures cannot be verified: {exc}; install the package cryptography, or demand no signature"
        ) from exc
    try:
        key = load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SignatureFault(f"{path} is a damaged public key ({str(exc)[:80]}); copy it again") from exc
    if not isinstance(key, Ed25519PublicKey):
        kind = type(key).__name__.replace("PublicKey", "")
        raise SignatureFault(f"{path} is a public key of the kind {kind}; expected Ed25519, as keygen makes it")
    return key


def _list_keys(place: Path) -> List[Path]:
    if not place.is_dir():
        return [place]
    _ensure_not_writable(place)
    try:
        # Where Kubernetes mounts a secret there are hidden entries, which hold the same files again.
        files = sorted(each for each in place.iterdir() if each.suffix == ".pem" and not each.name.startswith("."))
    except OSError as exc:
        raise SignatureFault(f"{place} cannot be listed: {exc.strerror}; expected a folder of public keys") from exc
    if not files:
        raise SignatureFault(f"{place} holds no public key; expected files *.pem")
    return files


def _ensure_not_writable(path: Path) -> None:
    """Refuse trust that every user of the host could extend; /tmp's sticky bit says that at least files are safe."""
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise SignatureFault(f"every user may write to {path}, and so trust a key of their own; chmod o-w {path}")


def _is_signed(signature: Signature, key: "Ed25519PublicKey") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature.value, signature.statement.to_sign())
    except InvalidSignature:
        return False
    return True


def _ensure_content(archive: Path, statement: Statement, copy: Optional[Path]) -> None:
    """Raise ``SignatureFault`` unless the file is the one that was signed; leave no copy of one that is not."""
    try:
        with open_regular(archive) as source, _write_copy(copy) as target:
            fault = _compare(source, statement, target)
            if fault:
                raise SignatureFault(
                    f"{archive} was altered after it was signed: {fault}; fetch it again, or sign it again"
                )
    except OSError as exc:
        raise SignatureFault(f"{archive} cannot be read or copied: {exc}") from exc


@contextmanager
def _write_copy(path: Optional[Path]) -> Iterator[Optional[BinaryIO]]:
    """Give a new file, which only its owner can read, and which is gone again after a failure; None for no path."""
    if path is None:
        yield None
        return
    descriptor = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        with os.fdopen(descriptor, "wb") as target:
            yield target
    except BaseException:
        path.unlink()
        raise


def _compare(source: BinaryIO, statement: Statement, target: Optional[BinaryIO]) -> str:
    """Return how an open archive is not the one that was signed, "" if it is; write to ``target`` what was hashed."""
    size = os.fstat(source.fileno()).st_size
    if size != statement.archive_size:
        return f"it has {size:,} bytes, {statement.archive_size:,} were signed"
    digest = hashlib.sha256()
    left = size + 1  # one more than there should be: the file may grow, and then its hash is another
    while block := source.read(min(_BLOCK, left)):
        digest.update(block)
        left -= len(block)
        if target is not None:
            target.write(block)
    found = digest.hexdigest()
    return (
        ""
        if found == statement.archive_sha256
        else f"sha256 {found[:16]}…, {statement.archive_sha256[:16]}… was signed"
    )


def _read_small(path: Path) -> bytes:
    with open_regular(path) as stream:
        raw = stream.read(_MOST + 1)
    if len(raw) > _MOST:
        raise SignatureFault(f"{path} has over {_MOST:,} bytes; that is neither a signature nor a key")
    return raw


def _decode(content: Dict[str, Any]) -> Optional[Signature]:
    """Return the signature in parsed JSON (Any: it may hold anything), or None where it has another shape."""
    try:
        statement = Statement(**content["statement"])
        value = base64.b64decode(content["signature"], validate=True)
        sound = len(value) == 64 and isinstance(content["key"], str)
    except (LookupError, TypeError, ValueError, binascii.Error):
        return None
    texts = {name: each for name, each in dataclasses.asdict(statement).items() if name != "archive_size"}
    sound = sound and type(statement.archive_size) is int and all(isinstance(each, str) for each in texts.values())
    return Signature(statement, content["key"], value) if sound else None
