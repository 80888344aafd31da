"""Sign archives, and verify them for the kit: keys, what a signer looks at before it signs, and the file beside it."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from handlers import artifact, integrity
from handlers.artifact import Record
from handlers.errors import BrokenArchive, KitError
from serving import signatures
from serving.signatures import Signature, SignatureFault, Statement
from serving.zip_layout import find_layout_faults

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PRIVATE, PUBLIC = "private.pem", "public.pem"
TRUSTED_VARIABLE = "TORCHSERVE_NEURON_TRUSTED_KEYS"
PASSPHRASE_VARIABLE = "TORCHSERVE_NEURON_KEY_PASSPHRASE"  # noqa: S105  the variable's name
MANIFEST = "MAR-INF/MANIFEST.json"


class SigningError(KitError):
    """A key cannot be made or used, an archive is not fit to be signed, or is not signed as the host demands."""


@dataclass(frozen=True)
class KeyPair:
    """A new key's id and the two files it is in."""

    key: str
    private: Path
    public: Path


def create_keys(folder: Path, *, passphrase: bytes = b"") -> KeyPair:
    """Write a new Ed25519 key into ``folder``, the private half for its owner's eyes only; never over another.

    With a passphrase the private half is encrypted. Raises ``SigningError``.
    """
    with _translated():
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        made = Ed25519PrivateKey.generate()
        secrecy = forms.BestAvailableEncryption(passphrase) if passphrase else forms.NoEncryption()
        private = made.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, secrecy)
        public = made.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        pair = KeyPair(signatures.key_id(made.public_key()), folder / PRIVATE, folder / PUBLIC)
        _write_pair(pair, private, public)
    return pair


def load_private_key(path: Path, *, ask: Callable[[], bytes]) -> "Ed25519PrivateKey":
    """Return the key in a PEM file; ``ask`` gives the passphrase of an encrypted one. Raises ``SigningError``."""
    with _translated():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        raw = _read_private(path)
        passphrase = ask() if b"ENCRYPTED" in raw else None
        try:
            key = load_pem_private_key(raw, passphrase)
        except (ValueError, TypeError) as exc:
            wrong = "its passphrase is another, or it is damaged" if passphrase else "it is damaged"
            raise SigningError(f"{path} cannot be opened: {wrong}; expected a key that keygen made") from exc
        if not isinstance(key, Ed25519PrivateKey):
            kind = type(key).__name__.replace("PrivateKey", "")
            raise SigningError(f"{path} is a private key of the kind {kind}; expected Ed25519, as keygen makes it")
        return key


def sign_archive(archive: Path, key: "Ed25519PrivateKey") -> Signature:
    """Write and return the signature of an archive, in place of an older one; raise ``SigningError``.

    What is signed is what was looked at: a plain zip whose members are those that its record names, with the digests
    that it names. The same archive and key give the same bytes.
    """
    with _translated(), signatures.open_regular(archive) as stream:
        statement = describe_archive(archive.name, stream)
        signature = Signature(statement, signatures.key_id(key.public_key()), key.sign(statement.to_sign()))
        _replace(signatures.signature_path(archive), signature.render())
        return signature


def describe_archive(name: str, stream: BinaryIO) -> Statement:
    """Return what can be said of an open archive; raise ``SigningError`` that lists why it must not be signed."""
    try:
        faults = find_layout_faults(stream)
        with zipfile.ZipFile(stream) as opened:
            raw = opened.read(integrity.RECORD_NAME)
            record = artifact.parse_record(raw)
            faults += [] if faults else _find_content_faults(opened, raw, record)
    except KeyError as exc:
        raise SigningError(f"{name} has no {integrity.RECORD_NAME}; it was not packed by torchserve-neuron") from exc
    except (zipfile.BadZipFile, BrokenArchive, EOFError, NotImplementedError, RuntimeError) as exc:
        raise SigningError(f"{name} is not fit to be signed: {exc}; pack it again") from exc
    if faults:
        raise SigningError(f"{name} is not fit to be signed: {'; '.join(faults[:5])}. Pack it again")
    stream.seek(0)
    digest = _hash(stream)
    return Statement(name, digest, stream.tell(), record.name, record.version, record.record_sha256)


def verify_archive(archive: Path, trusted: Sequence[Path], *, copy: Path | None = None) -> Signature:
    """Return the signature by one of the ``trusted`` keys of exactly this archive; raise ``SigningError``.

    ``copy`` gets what was verified; see ``serving.signatures.verify_archive``.
    """
    with _translated():
        return signatures.verify(archive, trusted, copy=copy)


@contextlib.contextmanager
def verified(archive: Path, trusted: Sequence[Path], *, progress: Callable[[str], None]) -> Iterator[Path]:
    """Give a private copy of an archive that was verified; the archive itself if no key is demanded.

    Raises ``SigningError``.
    """
    if not trusted:
        yield archive
        return
    with tempfile.TemporaryDirectory(prefix="torchserve-neuron-") as folder:
        copy = Path(folder) / archive.name
        progress(f"{archive} is signed by key {verify_archive(archive, trusted, copy=copy).key}")
        yield copy


def find_trusted(named: Sequence[Path], demanded: str | None) -> tuple[Path, ...]:
    """Return the places of trusted keys: those ``named``, else those that the host demands, none for no demand.

    ``demanded`` is the value of ``TORCHSERVE_NEURON_TRUSTED_KEYS``, paths with colons between them. Set but empty it
    raises ``SigningError``: whoever set it wants signatures.
    """
    if named or demanded is None:
        return tuple(named)
    places = tuple(Path(each) for each in demanded.split(os.pathsep) if each)
    if not places:
        raise SigningError(f"{TRUSTED_VARIABLE} is set but empty; name a folder of public keys, or unset it")
    return places


def _find_content_faults(opened: zipfile.ZipFile, raw: bytes, record: Record) -> list[str]:
    """Return how the members of a plain zip are not those that its record names, and its manifest another model's."""
    if not integrity.is_sealed(raw):
        return [f"{integrity.RECORD_NAME} was changed (its sha256 is not the one it states)"]
    names = set(opened.namelist()) - {integrity.RECORD_NAME}
    faults = [f"{name} was added (the record does not name it)" for name in sorted(names - set(record.files))]
    faults += [f"{name} is missing" for name in sorted(set(record.files) - names)]
    for name in sorted(names & set(record.files)):
        with opened.open(name) as member:
            faults += [f"{name} was changed"] if _hash(member) != record.files[name] else []
    return faults or _find_manifest_faults(opened, record)


def _find_manifest_faults(opened: zipfile.ZipFile, record: Record) -> list[str]:
    try:
        model = json.loads(opened.read(MANIFEST))["model"]
        found = (model["modelName"], model["modelVersion"])
    except (KeyError, ValueError, TypeError) as exc:
        return [f"{MANIFEST} is missing or broken ({type(exc).__name__})"]
    expected = (record.name, record.version)
    return [] if found == expected else [f"{MANIFEST} says model {found}, the record {expected}"]


def _hash(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _read_private(path: Path) -> bytes:
    with signatures.open_regular(path) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        raw = stream.read(16_384)
    if b"PRIVATE KEY" not in raw:
        other = "the public half, with which nobody can sign" if b"PUBLIC KEY" in raw else "no key"
        raise SigningError(f"{path} is {other}; expected the file {PRIVATE} that keygen wrote")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SigningError(f"{path} may be used by other users (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}")
    return raw


def _write_pair(pair: KeyPair, private: bytes, public: bytes) -> None:
    for path in (pair.private, pair.public):
        if os.path.lexists(path):
            raise SigningError(f"{path} is there already; a key is never overwritten. Choose another folder")
    pair.private.parent.mkdir(parents=True, exist_ok=True)
    for path, content, mode in ((pair.private, private, 0o600), (pair.public, public, 0o644)):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is as readable as others of the user's, at once or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what the rest of the world raises into ``SigningError``."""
    try:
        yield
    except SignatureFault as exc:
        raise SigningError(str(exc)) from exc
    except ImportError as exc:
        raise SigningError(
            f"archives cannot be signed: {exc}; install cryptography, as requirements.txt has it"
        ) from exc
    except OSError as exc:
        raise SigningError(
            f"{exc.filename or 'a file'} cannot be read or written: {exc.strerror}; free or permit it"
        ) from exc
