"""From ``MODEL=``, a name or a path, to a checked recipe and its model."""

import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracing.errors import PreflightError, RecipeError
from tracing.recipe import NEEDED, Recipe, find_faults

RANDOM = "random"  # instead of a path to weights; a file of that name is ./random
SHIPPED = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    file: Path  # absolute
    code: tuple[Path, ...] = ()  # files beside it that it has imported
    weights: str | None = None  # the user's own: an absolute path, or "random"; None for the recipe's

    @property
    def folder(self) -> Path:
        """The folder that the recipe's relative paths and imports start from."""
        return self.file.parent

    @property
    def has_random_weights(self) -> bool:
        """Whether the model is built without trained weights."""
        return self.weights == RANDOM

    @property
    def lacks_weights(self) -> bool:
        """Whether the recipe has no weights of its own and the user has given none."""
        return self.recipe.checkpoint == NEEDED and self.weights is None

    @property
    def checkpoint(self) -> Path | None:
        """The weights that ``build_model`` gets; None for random ones, or for a recipe without.

        Raises ``RecipeError`` that says how to give weights if they are lacking.
        """
        if self.lacks_weights:
            raise RecipeError(
                str(self.file),
                [
                    "the recipe has no weights of its own; give yours with --weights FILE (make: WEIGHTS=FILE), a file "
                    "or a folder, or build it untrained, and marked so, with --weights random (make: WEIGHTS=random)"
                ],
            )
        if self.weights is not None:
            return None if self.has_random_weights else Path(self.weights)
        return self.folder / self.recipe.checkpoint if self.recipe.checkpoint is not None else None


def find_recipe(model: str) -> Path:
    """Return the file of the recipe that ``model`` names: a shipped one, a file, or a folder with a ``recipe.py``."""
    if "/" not in model and not model.endswith(".py"):
        for path in (SHIPPED / f"{model}.py", SHIPPED / model / "recipe.py"):
            if path.is_file():
                return path
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "recipe.py"
    if path.is_file():
        return path.resolve()
    raise RecipeError(
        model or "MODEL", [f"there is no such recipe; shipped are {', '.join(list_recipes())}, or give a file's path"]
    )


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    files = [path.stem for path in SHIPPED.glob("*.py") if path.stem != "__init__"]
    return sorted([*files, *(path.parent.name for path in SHIPPED.glob("*/recipe.py"))])


def load_recipe(model: str, *, weights: str | None = None, checked: bool = True) -> LoadedRecipe:
    """Return the recipe that ``model`` names; raise ``RecipeError`` that lists all its faults.

    ``weights`` replace the recipe's own: a file's or folder's path, relative to the current folder, or "random". With
    ``checked=False`` only what importing shows is checked, which needs no torch.
    """
    path = find_recipe(model)
    weights = _resolve_weights(weights)
    with importing_from(path.parent):
        recipe = _import_recipe(path)
        faults = [*find_faults(recipe, path.parent), *_find_weights_faults(recipe, weights)] if checked else []
        code = tuple(modules_from(path.parent).values())
    if faults:
        raise RecipeError(str(path), faults)
    return LoadedRecipe(recipe, path, code, weights)


def with_any_weights(loaded: LoadedRecipe) -> LoadedRecipe:
    """Return the recipe, with random weights if it lacks any: enough where sizes and speed count, not answers."""
    return replace(loaded, weights=RANDOM) if loaded.lacks_weights else loaded


def _resolve_weights(weights: str | None) -> str | None:
    if weights is None or weights == RANDOM:
        return weights
    # Links are kept: in a cache of downloads they carry the names, and with them what kind of file it is.
    return str(Path(weights).expanduser().absolute())


def _find_weights_faults(recipe: Recipe, weights: str | None) -> list[str]:
    if weights is None:
        return []
    if recipe.checkpoint is None:
        fault = f"--weights {weights}: the recipe takes none, its checkpoint is None; one that takes the user's says "
        return [fault + "checkpoint=NEEDED (from tracing import NEEDED)"]
    if weights == RANDOM:
        return []
    path = Path(weights)
    if not path.exists():
        return [f"--weights: there is no file or folder {path}; expected weights, or the word 'random'"]
    if path.is_dir() and not list_files(path):
        return [f"--weights: the folder {path} holds no file; expected a checkpoint in it"]
    return []


def list_files(folder: Path) -> list[Path]:
    """Return the files in a folder with weights and below it, sorted; hidden ones, such as a clone's .git, left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def build_model(loaded: LoadedRecipe) -> Any:
    """Return the recipe's eager model as a ``torch.nn.Module`` in eval mode, a function wrapped into one.

    Call it inside ``importing_from(loaded.folder)``. Raises ``PreflightError`` with the place in the recipe.
    """
    import torch

    recipe, checkpoint = loaded.recipe, loaded.checkpoint
    torch.manual_seed(0)
    try:
        model = recipe.build_model(checkpoint)
    except Exception as exc:
        place = _place(exc, loaded.folder)
        what = f"build_model failed at {place}: {type(exc).__name__}: {exc}"
        if loaded.has_random_weights:
            what += "; for random weights it is called with None and must build the model without a checkpoint"
        raise PreflightError(what) from exc
    if isinstance(model, torch.nn.Module):
        return model.eval().requires_grad_(False)
    if callable(model):
        return _FunctionModule(model)
    raise PreflightError(f"build_model returned {type(model).__name__}, expected a torch.nn.Module or a function")


def _FunctionModule(function: Any) -> Any:  # noqa: N802  makes a class that needs torch, which is imported late
    import torch

    class FunctionModule(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            return function(*tensors)

    return FunctionModule().eval()


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Let the recipe import what lies beside it, and forget those modules afterwards: two recipes may use one name."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in modules_from(folder):
            if name not in before:
                del sys.modules[name]


def modules_from(folder: Path) -> dict[str, Path]:
    """Return the imported modules whose file lies in ``folder``, with that file; no library's and none of the kit's."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    found = {name: Path(file).resolve() for name, file in files.items() if file}
    # A project's folder often holds its virtual environment, and torch cannot be imported twice.
    foreign = [path for path in _foreign_folders() if folder in path.parents]
    return {
        name: file
        for name, file in found.items()
        if folder in file.parents and not any(each in file.parents for each in foreign)
    }


def _foreign_folders() -> list[Path]:
    kit = Path(__file__).resolve().parent.parent
    libraries = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [
        *(kit / name for name in ("handlers", "tracing", "serving", "cli")),
        *(Path(p).resolve() for p in libraries),
    ]


def _import_recipe(path: Path) -> Recipe:
    spec = importlib.util.spec_from_file_location(f"recipe_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(str(path), ["it is no Python file; a recipe's name ends with .py"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except RecipeError:
        raise
    except Exception as exc:
        fault = f"it does not import: {type(exc).__name__}: {exc} (at {_place(exc, path.parent)})"
        raise RecipeError(str(path), [fault]) from exc
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        found = "nothing of that name" if recipe is None else type(recipe).__name__
        raise RecipeError(str(path), [f"expected recipe = Recipe(...) at the top level, found {found}"])
    return recipe


def _place(exc: BaseException, folder: Path) -> str:
    """Return file and line of the deepest frame of a traceback that is in ``folder``."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{Path(exc.filename).name}:{exc.lineno}"
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if folder in Path(frame.filename).parents]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "a library"
