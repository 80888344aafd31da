"""What the entrypoint reads of archives, and that it refuses what was not packed so, before anything is started."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import archives as forging
from tests.entrypoints import ROOT
from tracing import checking

from entrypoint import archives  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.faults import Fault  # isort: skip

assert ROOT  # the import is what matters


def test_an_archive_says_what_it_needs(tiny_archive: Path) -> None:
    """Name, version, targets and cores are those of the record; the modules' bytes are counted once for each file."""
    found, record = archives.read_archive(tiny_archive), checking.read_archive_record(tiny_archive)
    variant, expected = found.variants[0], record.variants[0]
    assert (found.name, found.version, found.of_kit) == (record.name, record.version, True)
    assert (variant.target, variant.cores_per_worker) == (expected.target, expected.cores_per_worker)
    with zipfile.ZipFile(tiny_archive) as opened:
        assert variant.file_bytes == sum(
            opened.getinfo(each).file_size for each in {module.file for module in expected.modules}
        )


def _change_entry(content: bytes) -> bytes:
    return content + b"\nimport os\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifact.json": forging.flip_byte(40)}, "artifact.json was changed"),
        ({"handlers/service.py": _change_entry}, "handlers/service.py was changed"),
        ({"smuggled.py": _change_entry}, "smuggled.py was added"),
        ({"weights.txt": _change_entry}, "weights.txt was added"),
        ({"../outside.py": _change_entry}, "outside of its folder"),
        ({"/etc/outside": _change_entry}, "outside of its folder"),
    ],
)
def test_a_changed_archive_is_refused(
    tiny_archive: Path, tmp_path: Path, changes: dict[str, Callable[[bytes], bytes]], message: str
) -> None:
    """Every member is compared with the record before TorchServe sees the file."""
    forged = forging.tamper(tiny_archive, tmp_path / "tiny.mar", changes)
    with pytest.raises(Fault, match=message):
        archives.read_archive(forged)


def test_a_missing_member_is_refused(tiny_archive: Path, tmp_path: Path) -> None:
    """What the record names must be there."""
    members = forging.read_members(tiny_archive)
    del members["handlers/service.py"]
    with pytest.raises(Fault, match=r"handlers/service\.py is missing"):
        archives.read_archive(forging.write_members(members, tmp_path / "tiny.mar"))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_that_is_there_twice_is_refused(tiny_archive: Path, tmp_path: Path) -> None:
    """Two programs that unpack it could take one each."""
    copy = forging.tamper(tiny_archive, tmp_path / "tiny.mar", {})
    with zipfile.ZipFile(copy, "a") as opened:
        opened.writestr("handlers/service.py", b"evil")
    with pytest.raises(Fault, match=r"twice in it: .handlers/service\.py."):
        archives.read_archive(copy)


def test_an_archive_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    """A half download says so."""
    (tmp_path / "x.mar").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(Fault, match="cannot be read as an archive"):
        archives.read_archive(tmp_path / "x.mar")


def _write_foreign(path: Path, name: str = "other", version: str = "2.0") -> Path:
    manifest = {"model": {"modelName": name, "modelVersion": version}}
    return forging.write_members({"MAR-INF/MANIFEST.json": json.dumps(manifest).encode(), "m.py": b"1"}, path)


def test_an_archive_of_another_kit_is_read_by_its_manifest(tmp_path: Path) -> None:
    """It has no record: name and version are known, and nothing else."""
    found = archives.read_archive(_write_foreign(tmp_path / "other.mar"))
    assert (found.name, found.version, found.of_kit) == ("other", "2.0", False)


@pytest.mark.parametrize("name", ["a,b", "a=b", "a b", "../a", "a\nb"])
def test_a_name_that_would_change_the_configuration_is_refused(tmp_path: Path, name: str) -> None:
    """Names go into a line of config.properties."""
    with pytest.raises(Fault, match="has characters other than"):
        archives.read_archive(_write_foreign(tmp_path / "other.mar", name))


def test_two_archives_of_one_version_are_refused(tmp_path: Path) -> None:
    """TorchServe would serve one of them; which, nobody knows."""
    found = [archives.read_archive(_write_foreign(tmp_path / name)) for name in ("a.mar", "b.mar")]
    with pytest.raises(Fault, match=r"a\.mar and b\.mar are both other 2\.0"):
        archives.choose_archives(found, [])
    assert archives.choose_archives(found, ["b"]) == [found[1]]


@pytest.mark.parametrize(("make", "message"), [(False, "is no folder"), (True, "holds no .mar file")])
def test_an_empty_store_is_refused(tmp_path: Path, make: bool, message: str) -> None:
    """The message says how to mount one."""
    store = tmp_path / "models"
    if make:
        store.mkdir()
    with pytest.raises(Fault, match=f"{message}.*-v "):
        archives.find_archives(store)
