"""The same recipe gives the same bytes: whoever builds it, wherever, whenever."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import servers
from tests.servers import ROOT

HAS_WEIGHTS = (ROOT / "tracing" / "recipes" / "cifar10" / "weights.safetensors").exists()


@pytest.mark.parametrize("model", ["tiny", *([pytest.param("cifar10", marks=pytest.mark.long)] if HAS_WEIGHTS else [])])
def test_two_clones_build_the_same_bytes(model: str, tmp_path: Path) -> None:
    """Another folder (one with a blank), user, umask, time zone, home and temporary folder: the same sha256."""
    first = copy_tree(tmp_path / "first")
    second = copy_tree(tmp_path / "the second clone")
    alice = {"USER": "alice", "TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}
    bob = {"USER": "bob", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}
    one = build(model, first, tmp_path / "one", umask=0o022, environment=alice)
    other = build(model, second, tmp_path / "two", umask=0o077, environment=bob)
    assert one == other


def copy_tree(destination: Path) -> Path:
    """Copy the files that git would commit, in an order of their own and with times of now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in sorted(filter(None, names), reverse=" " in destination.name):
        if (ROOT / name).is_file():  # one that was removed and not yet committed is listed too
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, destination / name)
    return destination


def build(model: str, kit: Path, folder: Path, *, umask: int, environment: dict[str, str]) -> str:
    """Return the sha256 of the archive that the copy ``kit`` of this tree builds."""
    for name in ("home", "temp"):
        (folder / name).mkdir(parents=True)
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temp"), "LOGNAME": environment["USER"], **environment}
    archive = servers.build_archive(model, folder, kit=kit, umask=umask, environment=own)
    assert not any((folder / "temp").iterdir()), "a build leaves nothing in the temporary folder"
    return hashlib.sha256(archive.read_bytes()).hexdigest()
