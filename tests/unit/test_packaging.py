"""The wheel holds exactly what the kit needs, and archives hold exactly the handlers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tracing.checking import read_archive_record

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmarking", "cli", "handlers", "serving", "tracing")


@pytest.fixture(scope="module")
def wheel_members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the wheel's files, its own metadata apart."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*command, source], check=True, capture_output=True, timeout=200)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_module_and_nothing_of_the_tests(wheel_members: set[str]) -> None:
    """All Python files of the five packages and nothing else that is Python."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert {name for name in wheel_members if name.endswith(".py")} == expected


def test_the_wheel_holds_what_recipes_and_servers_read(wheel_members: set[str]) -> None:
    """Golden pictures, weights, model card and logging settings travel with the code that names them."""
    needed = ["tracing/recipes/tiny_red.png", "tracing/recipes/cifar10/cat.png"]
    needed += ["tracing/recipes/cifar10/weights.safetensors", "tracing/recipes/cifar10/MODEL_CARD.md"]
    needed += ["serving/log4j2-warn.xml", "serving/log4j2-info.xml"]
    assert [name for name in needed if name not in wheel_members] == []


def test_an_archive_holds_all_handlers_and_nothing_of_the_build_half(tiny_archive: Path) -> None:
    """Every file of handlers/ is there (the entry at the root), no other package of the kit is."""
    names = set(read_archive_record(tiny_archive).files)
    handlers = {path.relative_to(ROOT).as_posix() for path in (ROOT / "handlers").rglob("*.py")}
    assert {name for name in names if name.startswith("handlers/")} == handlers - {"handlers/entry.py"}
    assert "torchserve_entry.py" in names
    assert not [name for name in names if name.startswith(("tracing/", "serving/", "cli/", "benchmarking/"))]
