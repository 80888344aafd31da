"""What all tests share: the archive of the smallest recipe, built once, and leases that no real server sees."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.building import ensure_archive
from handlers.cores import LEASE_FOLDER_VARIABLE


def pytest_configure(config: pytest.Config) -> None:
    """Let pass the one warning that is neither ours nor torch's."""
    # torch-model-archiver reads its version from a file that it does not close.
    config.addinivalue_line("filterwarnings", "ignore:unclosed file .*model_archiver.version.txt:ResourceWarning")


@pytest.fixture(autouse=True, scope="session")
def _leases_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests and the servers they start from taking the cores of a real server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LEASE_FOLDER_VARIABLE, str(tmp_path_factory.mktemp("leases")))
        yield


@pytest.fixture(scope="session")
def tiny_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny.mar`` in a folder like ``model_store``; tests read it and never change it."""
    base = tmp_path_factory.mktemp("built")
    return ensure_archive("tiny", store=base / "model_store", build=base / "artifacts")


@pytest.fixture(scope="session")
def tiny_unpacked(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``tiny.mar``; tests read them and never change them."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(tiny_archive) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def tiny_folder(tiny_unpacked: Path, tmp_path: Path) -> Path:
    """A copy of the files of ``tiny.mar`` that a test may change."""
    return Path(shutil.copytree(tiny_unpacked, tmp_path / "tiny"))
