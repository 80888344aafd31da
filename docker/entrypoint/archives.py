"""The archives of a model store: what their records say, and whether their members are what was packed."""

import hashlib
import json
import re
import stat
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

from .faults import Fault

RECORD, MANIFEST = "artifact.json", "MAR-INF/MANIFEST.json"
_FORMAT = 1
_SEAL = re.compile(rb'"record_sha256": "([0-9a-f]{64})"')
# Both go into a line of config.properties and into paths.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Variant(NamedTuple):
    """A model compiled for one target."""

    target: str  # "cpu", "inf1", "inf2"
    emulated: bool
    cores_per_worker: int
    device_bytes: int  # of device memory that a worker takes on each of its cores
    file_bytes: int  # of its compiled modules, which a worker holds in memory


class Archive(NamedTuple):
    """One ``.mar`` file."""

    path: Path
    name: str  # of the model
    version: str
    variants: Tuple[Variant, ...]  # in order of preference; none for an archive that is not of the kit
    unpacked: int  # bytes

    @property
    def of_kit(self) -> bool:
        """Whether the kit packed it, and so its record says what it needs."""
        return bool(self.variants)


def find_archives(store: Path) -> List[Path]:
    """Return the files of the store that are archives, sorted; raise ``Fault`` where there is none."""
    if not store.is_dir():
        raise Fault(f"the model store {store} is no folder; mount one there: -v $PWD/model_store:{store}:ro")
    found = sorted(path for path in store.glob("*.mar") if path.is_file())
    if not found:
        raise Fault(f"the model store {store} holds no .mar file; mount one that does: -v FOLDER:{store}:ro")
    return found


def choose_archives(archives: Sequence[Archive], names: Sequence[str]) -> List[Archive]:
    """Return the archives whose model or file is named, all without names.

    Raises ``Fault`` over a name that is not there, and over two archives of one model and version.
    """
    known = {each for archive in archives for each in _names_of(archive)}
    missing = sorted(set(names) - known)
    if missing:
        there = ", ".join(sorted(f"{each.name} ({each.path.name})" for each in archives))
        raise Fault(f"TSN_MODELS names {', '.join(missing)}; the model store has {there}")
    chosen = [archive for archive in archives if not names or set(names) & _names_of(archive)]
    seen: Dict[Tuple[str, str], Archive] = {}
    for archive in chosen:
        other = seen.setdefault((archive.name, archive.version), archive)
        if other is not archive:
            raise Fault(
                f"{other.path.name} and {archive.path.name} are both {archive.name} {archive.version}; "
                "name the one to serve in TSN_MODELS"
            )
    return chosen


def _names_of(archive: Archive) -> Set[str]:
    return {archive.name, archive.path.name, archive.path.stem}


def read_archive(path: Path) -> Archive:
    """Return what an archive is, every member compared with its record; raise ``Fault`` that says what is wrong.

    An archive without a record is not of the kit: it has no hashes to compare.
    """
    try:
        with zipfile.ZipFile(str(path)) as opened:
            _check_members(path, opened)
            unpacked = sum(member.file_size for member in opened.infolist())
            if RECORD not in opened.namelist():
                return _read_foreign(path, opened, unpacked)
            raw = opened.read(RECORD)
            record = _parse_record(path, raw)
            _check_hashes(path, opened, record)
            sizes = {member.filename: member.file_size for member in opened.infolist()}
            return _read_own(path, record, sizes, unpacked)
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as exc:
        raise Fault(f"{path} cannot be read as an archive ({exc}); pack or fetch it again") from exc


def _check_members(path: Path, opened: zipfile.ZipFile) -> None:
    names = [member.filename for member in opened.infolist()]
    twice = sorted({name for name in names if names.count(name) > 1})
    outside = [name for name in names if name.startswith("/") or ".." in name.split("/") or "\\" in name]
    links = [each.filename for each in opened.infolist() if stat.S_ISLNK(each.external_attr >> 16)]
    for what, found in (("twice in it", twice), ("outside of its folder", outside), ("a link", links)):
        if found:
            raise Fault(f"{path} has a member that is {what}: {found[0]!r}; it is refused")


def _parse_record(path: Path, raw: bytes) -> Dict[str, Any]:
    blank = _SEAL.sub(b'"record_sha256": "' + b"0" * 64 + b'"', raw)
    stated = _SEAL.findall(raw)
    if len(stated) != 1 or hashlib.sha256(blank).hexdigest().encode() != stated[0]:
        raise Fault(f"{path}: {RECORD} was changed (its sha256 is not the one it states); fetch the archive again")
    try:
        record = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise Fault(f"{path}: {RECORD} is not valid JSON: {exc}") from exc
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise Fault(f"{path}: {RECORD} is not of format {_FORMAT}; pack the model with the kit of this image's release")
    return record


def _check_hashes(path: Path, opened: zipfile.ZipFile, record: Dict[str, Any]) -> None:
    named = record.get("files")
    if not isinstance(named, dict):
        raise Fault(f"{path}: {RECORD} does not say which files the archive has")
    present = [each.filename for each in opened.infolist() if not each.is_dir()]
    faults = [f"{name} is missing" for name in sorted(set(named) - set(present))]
    # TorchServe's archiver writes the manifest after the record.
    faults += [f"{name} was added" for name in sorted(set(present) - set(named) - {RECORD, MANIFEST})]
    faults += [f"{name} was changed" for name in present if name in named and _hash(opened, name) != named[name]]
    if faults:
        raise Fault(f"{path} is not what was packed: {'; '.join(faults)}; pack or fetch it again")


def _hash(opened: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with opened.open(name) as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _read_own(path: Path, record: Dict[str, Any], sizes: Dict[str, int], unpacked: int) -> Archive:
    try:
        variants = tuple(_read_variant(each, sizes) for each in record["variants"])
        name, version = str(record["name"]), str(record["version"])
    except (LookupError, TypeError, ValueError) as exc:
        raise Fault(f"{path}: {RECORD} lacks what it should have ({exc!r}); pack the model again") from exc
    if not variants:
        raise Fault(f"{path}: {RECORD} has no variants; pack the model again")
    return _checked(Archive(path, name, version, variants, unpacked))


def _read_variant(variant: Dict[str, Any], sizes: Dict[str, int]) -> Variant:
    files = {str(module["file"]) for module in variant["modules"]}
    return Variant(
        str(variant["target"]),
        bool(variant["emulated"]),
        max(1, int(variant["cores_per_worker"])),
        int(variant.get("device_bytes", 0)),
        sum(sizes[name] for name in files),
    )


def _read_foreign(path: Path, opened: zipfile.ZipFile, unpacked: int) -> Archive:
    try:
        model = json.loads(opened.read(MANIFEST).decode("utf-8"))["model"]
        name, version = str(model["modelName"]), str(model["modelVersion"])
    except (LookupError, TypeError, ValueError) as exc:
        raise Fault(f"{path} is no model archive: {MANIFEST} does not name model and version ({exc!r})") from exc
    return _checked(Archive(path, name, version, (), unpacked))


def _checked(archive: Archive) -> Archive:
    for text in (archive.name, archive.version, archive.path.name):
        if not _NAME.fullmatch(text):
            raise Fault(f"{archive.path}: {text!r} has characters other than letters, digits, dot, dash, underscore")
    return archive
