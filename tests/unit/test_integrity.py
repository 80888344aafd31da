"""Every changed byte of an archive is noticed before anything of it runs."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handlers import integrity
from handlers.errors import BrokenArchive

ROOT = Path(__file__).resolve().parents[2]
RECORD = integrity.RECORD_NAME


def members(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


def test_an_archive_as_packed_has_no_faults(tiny_unpacked):
    """A whole archive passes."""
    integrity.verify_files(tiny_unpacked)


def test_every_change_of_a_byte_of_the_record_is_noticed(tiny_unpacked):
    """Each byte of the record, the hash itself included, is covered by the hash."""
    raw = (tiny_unpacked / RECORD).read_bytes()
    assert integrity.is_sealed(raw)
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        assert not integrity.is_sealed(bytes(changed)), position


def test_every_cut_or_added_byte_of_the_record_is_noticed(tiny_unpacked):
    """A record that ends early or goes on is not the record."""
    raw = (tiny_unpacked / RECORD).read_bytes()
    assert not any(integrity.is_sealed(raw[:-cut]) for cut in range(1, 50))
    assert not integrity.is_sealed(raw + b"\n")
    assert not integrity.is_sealed(raw + raw)


def test_a_change_in_every_member_is_noticed(tiny_folder):
    """First, middle and last byte of each file count, and the message names the file."""
    for path in members(tiny_folder):
        raw = path.read_bytes()
        for position in {0, len(raw) // 2, len(raw) - 1} if raw else ():
            path.write_bytes(raw[:position] + bytes([raw[position] ^ 0x40]) + raw[position + 1 :])
            with pytest.raises(BrokenArchive, match=f"{path.name} was changed") as caught:
                integrity.verify_files(tiny_folder)
            assert str(caught.value).count("was changed") == 1
        path.write_bytes(raw)
    integrity.verify_files(tiny_folder)


def test_every_missing_member_is_named(tiny_folder, tmp_path):
    """A file that is gone is named."""
    for path in members(tiny_folder):
        shutil.move(path, tmp_path / "away")
        with pytest.raises(BrokenArchive, match=f"{path.name} is missing"):
            integrity.verify_files(tiny_folder)
        shutil.move(tmp_path / "away", path)


@pytest.mark.parametrize(
    "name",
    [
        "json.py",
        "handlers/extra.py",
        "torch/__init__.py",
        "a.so",
        "sitecustomize.pyc",
        "x.pth",
        "handlers/__pycache__/a.pyc",
    ],
)
def test_added_code_is_noticed(tiny_folder, name):
    """A file that Python would import in place of another is refused, wherever it lies."""
    path = tiny_folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("print('smuggled in')\n")
    with pytest.raises(BrokenArchive, match=f"{name} was added"):
        integrity.verify_files(tiny_folder)


@pytest.mark.parametrize("name", ["notes.txt", "logs/ts_log.log", "__pycache__/torchserve_entry.cpython-311.pyc"])
def test_what_a_server_leaves_in_the_folder_is_tolerated(tiny_folder, name):
    """Logs, and the entry's own bytecode, which TorchServe writes before our code runs."""
    (tiny_folder / name).parent.mkdir(exist_ok=True)
    (tiny_folder / name).write_bytes(b"\0")
    integrity.verify_files(tiny_folder)


def test_all_faults_are_reported_together(tiny_folder):
    """Whoever repairs an archive sees everything at once."""
    (tiny_folder / "handlers" / "images.py").write_text("")
    (tiny_folder / "handlers" / "cores.py").unlink()
    (tiny_folder / "new.py").write_text("")
    with pytest.raises(BrokenArchive) as caught:
        integrity.verify_files(tiny_folder)
    for fault in ("handlers/images.py was changed", "handlers/cores.py is missing", "new.py was added"):
        assert fault in str(caught.value)


def test_a_record_that_is_gone_is_named(tiny_folder):
    """Without a record nothing is trusted."""
    (tiny_folder / RECORD).unlink()
    with pytest.raises(BrokenArchive, match=f"{RECORD} is missing"):
        integrity.verify_files(tiny_folder)


@pytest.mark.parametrize("files", [None, [], "x", {"a": 1}], ids=repr)
def test_a_sealed_record_of_a_wrong_shape_is_a_broken_archive(tiny_folder, files):
    """A forger's right hash over a wrong list of files is refused as well, with the kit's own error."""
    content = json.dumps({"files": files, "record_sha256": "0" * 64}, indent=1).encode()
    (tiny_folder / RECORD).write_bytes(integrity.seal(content))
    with pytest.raises(BrokenArchive):
        integrity.verify_files(tiny_folder)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "golden/../../outside.txt"])
def test_a_named_file_outside_the_folder_is_refused(tiny_folder, name):
    """The record cannot speak for files that are not the archive's."""
    outside = tiny_folder.parent / "outside.txt"
    outside.write_text("x")
    target = tiny_folder / name
    content = json.dumps({"files": {name: integrity.hash_file(target)}, "record_sha256": "0" * 64}, indent=1)
    (tiny_folder / RECORD).write_bytes(integrity.seal(content.encode()))
    assert integrity.find_faults(tiny_folder, []) != []


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b'{"record_sha256": "short"}', b'"record_sha256": "%s" ' % (b"0" * 64) * 2], ids=repr
)
def test_a_record_without_exactly_one_hash_cannot_be_sealed(raw):
    """Two places for a hash would leave a byte uncovered."""
    with pytest.raises(BrokenArchive, match="exactly one field record_sha256"):
        integrity.seal(raw)


def test_a_text_that_looks_like_the_blank_hash_is_covered():
    """Sixty-four zeros elsewhere in the record do not take the hash's place."""
    raw = b'{"a": "%s", "record_sha256": "%s"}' % (b"0" * 64, b"0" * 64)
    sealed = integrity.seal(raw)
    assert b'"a": "%s"' % (b"0" * 64) in sealed
    assert integrity.is_sealed(sealed)


def test_hash_file_is_the_sha256_of_the_content(tmp_path):
    """Over more than one block."""
    (tmp_path / "f").write_bytes(b"ab" * 1_000_000)
    assert integrity.hash_file(tmp_path / "f") == hashlib.sha256(b"ab" * 1_000_000).hexdigest()


def test_it_needs_nothing_but_the_standard_library():
    """The entry calls it before anything else is trusted: neither torch nor numpy is imported."""
    script = "import sys; from handlers import integrity; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
