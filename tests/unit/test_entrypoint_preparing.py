"""From settings to files: signatures, space, cores that are not ours; nothing is written where the start is refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from serving import signing
from tests.entrypoints import ROOT, make_environment

from entrypoint import preparing  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.faults import Fault  # isort: skip
from entrypoint.settings import read_settings  # isort: skip
from tests.ports import find_free_ports


@pytest.fixture
def store(tiny_archive: Path, tmp_path: Path) -> Path:
    """A model store of its own with ``tiny.mar``."""
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "tiny.mar").write_bytes(tiny_archive.read_bytes())
    return folder


def _prepare(environment: Mapping[str, str]) -> preparing.Prepared:
    return preparing.prepare(read_settings(environment), environment)


def _environment(tmp_path: Path, store: Path, **settings: object) -> dict[str, str]:
    return make_environment(tmp_path, store, find_free_ports(3), **settings)


def _sign(archive: Path, folder: Path) -> Path:
    """Return the public key of a new pair that has signed ``archive``."""
    pair = signing.create_keys(folder)
    signing.sign_archive(archive, signing.load_private_key(pair.private, ask=bytes))
    return pair.public


def test_an_unsigned_archive_is_refused_where_signatures_are_wanted(tmp_path: Path, store: Path) -> None:
    """Before anything is written."""
    key = _sign(store / "tiny.mar", tmp_path / "keys")
    (store / "tiny.mar.sig").unlink()
    with pytest.raises(Fault, match=r"tiny\.mar.*TSN_TRUSTED_KEYS="):
        _prepare(_environment(tmp_path, store, trusted_keys=key))
    assert not (tmp_path / "run").exists()


def test_a_signed_archive_is_served_from_a_verified_copy(tmp_path: Path, store: Path) -> None:
    """Who can write to the store afterwards changes nothing that is served."""
    environment = _environment(tmp_path, store, trusted_keys=_sign(store / "tiny.mar", tmp_path / "keys"))
    command, _ = preparing.install(_prepare(environment), environment)
    copy = tmp_path / "run" / "store"
    assert command[command.index("-s") + 1] == str(copy)
    assert (copy / "tiny.mar").read_bytes() == (store / "tiny.mar").read_bytes()


def test_an_archive_exchanged_after_the_check_is_refused(tmp_path: Path, store: Path) -> None:
    """The copy is verified, not the file that was looked at before."""
    environment = _environment(tmp_path, store, trusted_keys=_sign(store / "tiny.mar", tmp_path / "keys"))
    prepared = _prepare(environment)
    (store / "tiny.mar").write_bytes((store / "tiny.mar").read_bytes() + b"more")
    with pytest.raises(Fault):
        preparing.install(prepared, environment)


def test_a_restarted_container_begins_anew(tmp_path: Path, store: Path) -> None:
    """Leases, sockets and what an earlier server said of itself are gone."""
    run = tmp_path / "run"
    (run / "leases").mkdir(parents=True)
    for name in ("leases/old.lock", "serving.json", "inference.sock"):
        (run / name).touch()
    environment = _environment(tmp_path, store)
    preparing.install(_prepare(environment), environment)
    assert not any((run / name).exists() for name in ("leases/old.lock", "serving.json", "inference.sock"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, store: Path) -> None:
    """With the option that gives one under a read-only root."""
    (tmp_path / "run").write_text("a file in the way")
    environment = _environment(tmp_path, store)
    with pytest.raises(Fault, match=r"cannot be written.*--tmpfs"):
        preparing.install(_prepare(environment), environment)


def test_cores_from_the_middle_of_a_chip_are_refused(tmp_path: Path, store: Path) -> None:
    """Workers take cores from 0 on: they would take another container's."""
    emulator = ROOT / "emulator"
    environment = _environment(tmp_path, store)
    environment.update(NEURON_EMULATOR_INSTANCE="inf1.xlarge", NEURON_RT_VISIBLE_CORES="2-3")
    environment.update(PYTHONPATH=str(emulator), PATH=f"{emulator / 'bin'}:{environment['PATH']}")
    with pytest.raises(Fault, match="given the NeuronCores 2, 3"):
        _prepare(environment)
