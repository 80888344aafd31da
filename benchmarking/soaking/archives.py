"""The archives of a soak: shipped recipes, two versions of one model to roll between, and a visitor."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarking.soaking.traffic import Known
from serving.server import ROOT

_RECIPES = ROOT / "tracing" / "recipes"
# The new version has words of its own, so that an answer tells which version gave it.
_WORDS = {"1.0": ("red", "green", "blue"), "2.0": ("crimson", "lime", "navy")}


@dataclass
class Archives:
    """What can be served, and with which answers."""

    steady: list[str]  # models that stay
    files: dict[str, Path] = field(default_factory=dict)  # "cifar10", "rolled-1.0", "visitor"
    known: dict[str, list[Known]] = field(default_factory=dict)  # the same names


def build(models: Sequence[str], target: str, folder: Path, progress: Callable[[str], None]) -> Archives:
    """Return archives for ``target``, built below ``folder``; one that is there already is taken."""
    found = Archives(list(models))
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        _add(found, model, model, model, target, folder, progress)
    for version in _WORDS:
        recipe = _write_rolled(folder / f"recipe-{version}", version)
        _add(found, f"rolled-{version}", str(recipe), "rolled", target, folder, progress)
    _add(found, "visitor", "tiny", "visitor", target, folder, progress)
    return found


def _add(
    found: Archives, name: str, recipe: str, model: str, target: str, folder: Path, progress: Callable[[str], None]
) -> None:
    from tracing import archiving, building, checking
    from tracing.loading import load_recipe

    archive = folder / f"{name}.mar"
    targets = target.split(",")
    if not archive.exists() or not building.is_up_to_date(checking.read_archive_record(archive), recipe, targets):
        building.trace(recipe, target_names=targets, folder=folder / f"artifact-{name}", progress=progress)
        archiving.write_archive(folder / f"artifact-{name}", load_recipe(recipe), archive)
    record = checking.read_archive_record(archive)
    with checking.unpack_archive(archive) as unpacked:
        found.known[name] = [
            Known(model, (unpacked / each.file).read_bytes(), (each.answer,), record.golden_tolerance)
            for each in record.golden
        ]
    found.files[name] = archive


def _write_rolled(folder: Path, version: str) -> Path:
    """Write a version of the tiny recipe under the name "rolled", with its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (_RECIPES / "tiny.py").read_text().replace('name="tiny"', f'name="rolled",\n    version="{version}"')
    labels = ", ".join(f'"{word}"' for word in _WORDS[version])
    text = text.replace('"red", "green", "blue"', labels)
    for picture in _RECIPES.glob("tiny_*.png"):
        shutil.copyfile(picture, folder / picture.name)
    (folder / "rolled.py").write_text(text)
    return folder / "rolled.py"
