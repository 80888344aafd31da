"""The README is literally true: its recipe is built, checked and served as it stands, its commands exist."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from tests.ports import find_free_ports
from tests.servers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _read_handler() -> str:
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Shouting" in code]
    return block


def _read_recipe() -> str:
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "recipe = Recipe(" in code]
    return block


def _kit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's recipe in a folder of a user's own, with the weights and pictures that it names."""
    folder = tmp_path_factory.mktemp("my models")
    file = folder / "shapes.py"
    file.write_text(_read_recipe())
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 2),
    )
    torch.save(model.state_dict(), folder / "shapes.pt")
    for name in ("circle", "square"):
        picture = Image.new("RGB", (90, 70), "white")
        draw = ImageDraw.Draw(picture)
        getattr(draw, {"circle": "ellipse", "square": "rectangle"}[name])((20, 10, 70, 60), fill="navy")
        picture.save(folder / f"{name}.png")
    return file


@pytest.fixture(scope="module")
def served(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The recipe's archive and what `serve` printed; the server is stopped at the end."""
    base = tmp_path_factory.mktemp("store")
    port = str(find_free_ports(3)[0])
    done = _kit("serve", recipe_file, "--port", port, "--store", base, "--build", base / "build", "--wait", "150")
    try:
        assert done.returncode == 0, done.stderr
        yield base / "shapes.mar", done.stdout
    finally:
        assert _kit("stop", "--port", port).returncode == 0


def test_the_recipe_has_fewer_than_40_lines() -> None:
    """A user's own classifier is a short file."""
    assert len(_read_recipe().splitlines()) < 40


def test_the_recipe_is_served_as_written(served: tuple[Path, str]) -> None:
    """`serve` with the path of the file answers its golden request and prints the line that repeats it."""
    _, output = served
    answer = json.loads(output.splitlines()[1])
    assert set(answer) == {"circle", "square"}
    (curl,) = [line.strip() for line in output.splitlines() if line.strip().startswith("curl ")]
    again = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(again.stdout) == pytest.approx(answer, abs=1e-6)


def test_the_recipes_archive_is_fit_to_be_served(served: tuple[Path, str]) -> None:
    """`check` and `predict` work on it without a server."""
    archive, _ = served
    assert "is fit to be served" in _kit("check", archive).stdout


def test_the_handler_works_as_written(recipe_file: Path, tmp_path: Path) -> None:
    """Put beside the recipe and named in it, it travels and answers; what it refuses is refused."""
    (recipe_file.parent / "shouting.py").write_text(_read_handler())
    own = recipe_file.with_name("own.py")
    own.write_text(_read_recipe().replace('"image_classifier"', '"shouting.py:Shouting"').replace('"shapes"', '"own"'))
    Image.open(recipe_file.with_name("circle.png")).save(tmp_path / "circle.gif")
    built = _kit("mar", own, "--store", tmp_path, "--build", tmp_path / "build")
    assert built.returncode == 0, built.stderr
    done = _kit("predict", tmp_path / "own.mar", recipe_file.with_name("circle.png"), tmp_path / "circle.gif")
    right, refused = map(json.loads, done.stdout.splitlines())
    assert set(right) == {"CIRCLE", "SQUARE"}
    assert (refused["code"], refused["message"]) == (400, "no animations, please")


def test_every_make_target_the_readme_names_exists() -> None:
    """The table of commands and the examples name targets that the Makefile has."""
    targets = set(re.findall(r"^([a-z-]+):.*?##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", README, re.MULTILINE))
    assert {"serve", "stop", "test"} <= named <= targets, named - targets


def test_every_command_the_readme_names_exists() -> None:
    """The table's commands of the console program are accepted by it."""
    cells = re.findall(r"^\| `make [^|]*\| ([^|]*) \|", README, re.MULTILINE)
    commands = {name for cell in cells for name in re.findall(r"`([a-z]+)", cell)}
    helped = _kit("--help").stdout
    assert {"serve", "status", "check"} <= commands
    missing = [name for name in commands if not re.search(rf"^\s+{name}\s", helped, re.MULTILINE)]
    assert missing == []


def test_the_files_the_readme_links_to_exist() -> None:
    """No link of the README is dead."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
