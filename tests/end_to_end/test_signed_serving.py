"""A host that demands signatures: what is served is what was verified, whatever happens to the store afterwards."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from serving.errors import ServerRuns
from serving.runs import RunFolder
from serving.server import Served, ServeSettings, start, stop
from serving.signing import PASSPHRASE_VARIABLE, KeyPair, SigningError
from tests.archives import with_version
from tests.ports import find_port_row
from tests.servers import RECIPES, ROOT
from tests.signed import make_keys, sign
from tracing.checking import read_archive_record

RED = (RECIPES / "tiny_red.png").read_bytes()


def serve(archive: Path, port: int, config: Path, *trusted: Path) -> Served:
    """Start a server with one worker, or ask the one that runs."""
    settings = ServeSettings(port=port, config=config, workers=1, wait=120.0, trusted=trusted)
    return start(archive, read_archive_record(archive), settings, progress=print)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """The trusted key."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(tiny_archive: Path, keys: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed archive in a store of its own, which tests may change."""
    archive = Path(shutil.copy(tiny_archive, tmp_path_factory.mktemp("store")))
    sign(archive, keys)
    return archive


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's settings, but models may be registered while the server runs."""
    text = (ROOT / "config.properties").read_text()
    assert "enable_model_api=false" in text
    path = tmp_path_factory.mktemp("config") / "config.properties"
    path.write_text(text.replace("enable_model_api=false", "enable_model_api=true"))
    return path


@pytest.fixture(scope="module")
def port(signed: Path, config: Path, keys: KeyPair) -> Iterator[int]:
    """Where the signed archive is served."""
    chosen = find_port_row()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(PASSPHRASE_VARIABLE, "secret")
            assert serve(signed, chosen, config, keys.public).reply.status == 200
        yield chosen
    finally:
        stop(chosen)
        RunFolder(chosen).path.with_name(f"{chosen}.lock").unlink()


def test_the_server_reads_a_copy_of_its_own(signed: Path, port: int) -> None:
    """Nobody else may write to it, and it has the bytes that were verified."""
    copy = RunFolder(port).path / "signed" / "tiny.mar"
    assert copy.read_bytes() == signed.read_bytes()
    assert copy.stat().st_uid == os.getuid()
    assert copy.stat().st_mode & 0o077 == 0


def test_the_server_does_not_have_the_passphrase_of_a_key(port: int) -> None:
    """Its workers run code of archives, who signs has more rights than they."""
    state = RunFolder(port).read()
    assert state is not None
    for process in (server := psutil.Process(state.pid), *server.children(recursive=True)):
        assert PASSPHRASE_VARIABLE not in process.environ()


def test_the_same_demand_finds_the_server_that_runs(signed: Path, port: int, config: Path, keys: KeyPair) -> None:
    """A second start asks it; one with another demand does not pass for it."""
    assert not serve(signed, port, config, keys.public).started
    with pytest.raises(ServerRuns, match=r"with other settings \(.*trusted="):
        serve(signed, port, config)


@pytest.fixture(autouse=True)
def _restored(signed: Path) -> Iterator[None]:
    """Each test finds the signed archive."""
    kept = signed.read_bytes()
    yield
    signed.write_bytes(kept)


def test_an_archive_exchanged_after_the_start_is_not_loaded(signed: Path, port: int, tmp_path: Path) -> None:
    """Registered again, as by an operator or a thief of the management port, the model is still the signed one."""
    with_version(signed, tmp_path / "tiny.mar", "6.6")
    shutil.copy(tmp_path / "tiny.mar", signed)
    management = f"http://127.0.0.1:{port + 1}/models"
    assert requests.delete(f"{management}/tiny/1.0", timeout=60).status_code == 200
    query = "url=tiny.mar&initial_workers=1&synchronous=true"
    requests.post(f"{management}?{query}", timeout=60).raise_for_status()
    assert [each["modelVersion"] for each in requests.get(f"{management}/tiny", timeout=10).json()] == ["1.0"]
    assert requests.post(f"http://127.0.0.1:{port}/predictions/tiny", data=RED, timeout=30).status_code == 200


def test_an_archive_exchanged_between_two_looks_is_not_served(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    """The record that was read is of another archive than the one that was verified: nothing is started."""
    other = with_version(signed, tmp_path / "other" / "tiny.mar", "6.6")
    settings = ServeSettings(port=(chosen := find_port_row()), workers=1, trusted=(keys.public,))
    with pytest.raises(SigningError, match="was exchanged while it was looked at"):
        start(signed, read_archive_record(other), settings, progress=print)
    assert RunFolder(chosen).read() is None
    shutil.rmtree(RunFolder(chosen).failed)
    RunFolder(chosen).path.with_name(f"{chosen}.lock").unlink()
