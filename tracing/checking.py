"""Whether an archive is fit to be served: its zip, its files, its entry, and its answers in a clean interpreter."""

import base64
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from handlers import artifact, integrity
from handlers.artifact import Record
from handlers.comparing import find_difference
from handlers.errors import BrokenArchive
from handlers.neuron import INSTANCE_VARIABLE
from tracing.archiving import MANIFEST
from tracing.errors import CheckError

Progress = Callable[[str], None]
CLEAN_RUN = Path(__file__).resolve().parent / "clean_run.py"
# Archives hold weights stored, not deflated: one that swells like this was made to fill a disk.
_MOST_SWELLING = 20
_PATIENCE = 600.0  # seconds for a worker to load and answer; large models load for minutes


@dataclass(frozen=True)
class Answer:
    """What an archive answered to one request."""

    status: int  # HTTP
    content_type: str
    body: bytes


def read_archive_record(archive: Path) -> Record:
    """Return the record inside an archive without unpacking it; raise ``CheckError``."""
    with _open_zip(archive) as opened:
        try:
            return artifact.parse_record(opened.read(integrity.RECORD_NAME))
        except KeyError as exc:
            raise CheckError(
                f"{archive} has no {integrity.RECORD_NAME}; it was not packed by torchserve-neuron"
            ) from exc
        except (BrokenArchive, zipfile.BadZipFile) as exc:
            raise CheckError(f"{archive}: {exc}") from exc


def check_archive(archive: Path, *, progress: Progress) -> Record:
    """Return the record of an archive that is fit to be served; raise ``CheckError`` that names every fault found."""
    with unpack_archive(archive) as folder:
        record = _check_files(archive, folder)
        progress(f"{len(record.files) + 1} files as packed, names and hashes agree")
        bodies = [_request(folder / golden.file, golden.content_type) for golden in record.golden]
        sizes = range(1, max(module.batch for variant in record.variants for module in variant.modules) + 1)
        state, batches = _run_clean(folder, [[bodies[n % len(bodies)] for n in range(size)] for size in sizes])
        progress(f"a worker starts in a clean interpreter: {state['target']}, batches of {state['batch_sizes']}")
        (tolerance,) = [each.golden_tolerance for each in record.variants if each.target == state["target"]]
        faults = [
            f"golden request {golden.name}, request {row + 1} of {len(batch)}: {fault}"
            for batch in batches
            for row, answer in enumerate(batch)
            for golden in [record.golden[row % len(bodies)]]
            for fault in [_compare(answer, golden.answer, tolerance)]
            if fault
        ]
        if faults:
            raise CheckError(f"{archive}: " + "; ".join(faults[:5]))
        progress(f"{len(bodies)} golden requests answered as expected in batches of 1 to {len(batches)}")
        return record


def predict(archive: Path, requests: Sequence[tuple[Path, str]]) -> list[Answer]:
    """Return an archive's answers to requests (file, content type), as one batch, without a server."""
    with unpack_archive(archive) as folder:
        _check_files(archive, folder)
        _, (answers,) = _run_clean(folder, [[_request(path, kind) for path, kind in requests]])
        return answers


@contextmanager
def unpack_archive(archive: Path) -> Iterator[Path]:
    """Unpack into a private folder for the time of a ``with``; raise ``CheckError`` for what must not be unpacked."""
    folder = Path(tempfile.mkdtemp(prefix="torchserve-neuron-"))
    try:
        with _open_zip(archive) as opened:
            faults = _find_zip_faults(opened)
            if faults:
                raise CheckError(f"{archive}: " + "; ".join(faults))
            try:
                opened.extractall(folder)
            except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as exc:
                raise CheckError(f"{archive} is truncated or damaged: {exc}; fetch or pack it again") from exc
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        opened = zipfile.ZipFile(archive)
    except FileNotFoundError as exc:
        raise CheckError(f"there is no archive {archive}; build it with: make mar MODEL=...") from exc
    except (zipfile.BadZipFile, OSError, ValueError) as exc:
        raise CheckError(f"{archive} is no whole zip file ({exc}); it is truncated or no archive") from exc
    with opened:
        yield opened


def _find_zip_faults(opened: zipfile.ZipFile) -> list[str]:
    faults = []
    members = opened.infolist()
    names = [member.filename for member in members]
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if not parts or member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            faults.append(f"member {member.filename!r} leaves the archive's folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            faults.append(f"member {member.filename!r} is a symbolic link")
        if member.flag_bits & 1:
            faults.append(f"member {member.filename!r} is encrypted")
    faults += [f"member {name!r} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    swollen = sum(member.file_size for member in members)
    if swollen > 10_000_000 and swollen > _MOST_SWELLING * sum(member.compress_size for member in members):
        faults.append(f"it would unpack to {swollen:,} bytes, over {_MOST_SWELLING} times its size")
    return faults


def _check_files(archive: Path, folder: Path) -> Record:
    """Return the record of an unpacked archive whose every file is named in it and unchanged."""
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    faults = integrity.find_faults(folder, present)
    if not faults:
        try:
            record = artifact.read_record(folder)
            faults = _find_manifest_faults(folder, record)
        except BrokenArchive as exc:
            faults = [str(exc)]
    if faults:
        raise CheckError(f"{archive}: " + "; ".join(faults))
    return record


def _find_manifest_faults(folder: Path, record: Record) -> list[str]:
    try:
        model = json.loads((folder / MANIFEST).read_text())["model"]
        named = {key: model.get(key) for key in ("modelName", "modelVersion", "handler")}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return [f"{MANIFEST} is missing or broken ({type(exc).__name__}: {exc}); TorchServe would not load this"]
    faults = []
    if (named["modelName"], named["modelVersion"]) != (record.name, record.version):
        faults.append(
            f"{MANIFEST} says {named['modelName']} {named['modelVersion']}, the record {record.name} {record.version}"
        )
    entry = str(named["handler"])
    if not (folder / entry).is_file():
        faults.append(f"the handler {entry!r} that {MANIFEST} names is not in the archive")
    return faults


def _request(path: Path, content_type: str) -> dict[str, str]:
    return {"body": base64.b64encode(path.read_bytes()).decode(), "type": content_type}


def _run_clean(folder: Path, batches: list[list[dict[str, str]]]) -> tuple[dict[str, Any], list[list[Answer]]]:
    """Run the unpacked archive in an interpreter that sees neither the kit nor the user's module path."""
    # A lease folder, and an emulated host, of its own: checking an archive must not take a core from a server.
    with tempfile.TemporaryDirectory(prefix="torchserve-neuron-") as leases:
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(CLEAN_RUN), str(folder), *_find_emulator()],
                input=json.dumps(batches),
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                env={**_environment(), "TORCHSERVE_NEURON_LEASES": leases, "NEURON_EMULATOR_FOLDER": leases},
            )
        except subprocess.TimeoutExpired as exc:
            raise CheckError(f"the archive gave no answer within {_PATIENCE:.0f} s; its model hangs") from exc
    tail = " | ".join(done.stderr.strip().splitlines()[-3:])
    if not done.stdout.strip():
        raise CheckError(f"the archive's process ended with status {done.returncode}: {tail or 'it said nothing'}")
    result = json.loads(done.stdout)
    if "fault" in result:
        raise CheckError(f"the archive does not start: {result['fault']}")
    state: dict[str, Any] = result["state"]
    if state["status"] != "ready":
        raise CheckError(f"a worker of this archive cannot serve: {state.get('reason', state)}")
    answers = [
        [Answer(each["status"], each["type"], base64.b64decode(each["body"])) for each in batch]
        for batch in result["batches"]
    ]
    return state, answers


def _find_emulator() -> list[str]:
    """Return the folder of the emulator where it was asked for: a clean interpreter sees no path of the user's."""
    found = importlib.util.find_spec("neuron_emulator") if INSTANCE_VARIABLE in os.environ else None
    return [str(Path(found.origin).parents[1])] if found is not None and found.origin is not None else []


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    kept.pop("TORCHSERVE_NEURON_KEY_PASSPHRASE", None)  # of a private key, which is no business of an archive's code
    return kept


def _compare(answer: Answer, expected: Any, tolerance: float) -> str:
    if answer.status != 200:
        return f"status {answer.status}: {answer.body.decode(errors='replace')[:300]}"
    return find_difference(expected, json.loads(answer.body), tolerance)
