"""What the container tests share: an engine of their own, stand-ins for the bases, the images, and tiny archives."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.containers import bases
from tests.containers.engine import CACHE_VARIABLE, Engine, why_not
from tests.servers import ROOT


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Podman with a storage of its own; skips where that cannot be."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return Engine(Path(os.environ.get(CACHE_VARIABLE, ROOT / "build" / "containers")).resolve())


@pytest.fixture(scope="session")
def debian(engine: Engine) -> str:
    """The stand-in for a Python image."""
    return bases.make_debian(engine)


@pytest.fixture(scope="session")
def wheels(engine: Engine) -> Path:
    """A folder with every wheel that the images take."""
    return bases.fetch_wheels(engine.folder / "wheels")


@pytest.fixture(scope="session")
def cpu_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of tiny for a CPU."""
    return _make_archive(tmp_path_factory.mktemp("cpu"), ["--target=cpu"])


@pytest.fixture(scope="session")
def emulated_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of tiny for an emulated inf1."""
    return _make_archive(tmp_path_factory.mktemp("inf1"), ["--target=inf1", "--emulate"])


@pytest.fixture(scope="session")
def cpu_image(engine: Engine, debian: str, wheels: Path, cpu_archive: Path) -> str:
    """The image for a CPU with tiny in it, built by the console command on the stand-in."""
    return _make_image(engine, "cpu", debian, wheels, cpu_archive)


@pytest.fixture(scope="session")
def inf1_image(engine: Engine, debian: str, wheels: Path, emulated_archive: Path) -> str:
    """The image for inf1 with the emulated tiny in it, built by the console command on the stand-in."""
    return _make_image(engine, "inf1", bases.make_neuron(engine, wheels), wheels, emulated_archive)


def _make_archive(folder: Path, options: Sequence[str]) -> Path:
    command = [sys.executable, "-m", "cli.main", "mar", "tiny", f"--store={folder}", f"--build={folder / 'build'}"]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
    return folder / "tiny.mar"


def _make_image(engine: Engine, target: str, base: str, wheels: Path, archive: Path) -> str:
    tag = f"localhost/tsn-test:{target}"
    command = [sys.executable, "-m", "cli.main", "image", str(archive), f"--target={target}", f"--base={base}"]
    done = subprocess.run(
        [*command, f"--tag={tag}", "--engine=podman", f"--wheels={wheels}", "--option=--layers"],
        cwd=ROOT,
        env={**engine.environment, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert done.stdout.splitlines()[-1] == tag
    return tag
