"""From ``MODEL=``, a name or a path, to a checked recipe and its model."""

import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracing.errors import PreflightError, RecipeError
from tracing.recipe import Recipe, find_faults

SHIPPED = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    file: Path  # absolute
    code: tuple[Path, ...] = ()  # files beside it that it has imported

    @property
    def folder(self) -> Path:
        """The folder that the recipe's relative paths and imports start from."""
        return self.file.parent


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


def load_recipe(model: str, *, checked: bool = True) -> LoadedRecipe:
    """Return the recipe that ``model`` names; raise ``RecipeError`` that lists all its faults.

    With ``checked=False`` only what importing shows is checked, which needs no torch.
    """
    path = find_recipe(model)
    with importing_from(path.parent):
        recipe = _import_recipe(path)
        faults = find_faults(recipe, path.parent) if checked else []
        code = tuple(modules_from(path.parent).values())
    if faults:
        raise RecipeError(str(path), faults)
    return LoadedRecipe(recipe, path, code)


def build_model(loaded: LoadedRecipe) -> Any:
    """Return the recipe's eager model as a ``torch.nn.Module`` in eval mode, a function wrapped into one.

    Call it inside ``importing_from(loaded.folder)``. Raises ``PreflightError`` with the place in the recipe.
    """
    import torch

    recipe = loaded.recipe
    torch.manual_seed(0)
    checkpoint = loaded.folder / recipe.checkpoint if recipe.checkpoint is not None else None
    try:
        model = recipe.build_model(checkpoint)
    except Exception as exc:
        place = _place(exc, loaded.folder)
        raise PreflightError(f"build_model failed at {place}: {type(exc).__name__}: {exc}") from exc
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
