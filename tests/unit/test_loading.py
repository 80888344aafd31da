"""From a name or a path to a recipe and its model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.recipes import write_recipe
from tracing import loading
from tracing.errors import PreflightError, RecipeError

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_recipes_are_listed_and_found():
    """By name, whether they are a file or a folder."""
    assert loading.list_recipes() == sorted(loading.list_recipes())
    assert {"cifar10", "resnet50", "tiny"} <= set(loading.list_recipes())
    assert loading.find_recipe("tiny") == loading.SHIPPED / "tiny.py"
    assert loading.find_recipe("cifar10") == loading.SHIPPED / "cifar10" / "recipe.py"


def test_a_recipe_is_found_by_file_folder_and_from_the_current_folder(tmp_path, monkeypatch):
    """Outside the repository, absolute or relative."""
    path = write_recipe(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert loading.find_recipe(str(path)) == path
    assert loading.find_recipe(str(tmp_path / "mine")) == path
    assert loading.find_recipe("mine") == path
    assert loading.find_recipe("mine/recipe.py") == path


@pytest.mark.parametrize("model", ["tinny", "no/such.py", "", "tiny.py"])
def test_an_unknown_recipe_is_answered_with_those_there_are(model, tmp_path, monkeypatch):
    """A typing mistake is corrected by the message."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"there is no such recipe; shipped are .*cifar10, .*tiny, or give a file"):
        loading.find_recipe(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 3\n", r"expected recipe = Recipe\(...\) at the top level, found int"),
        ("", "found nothing of that name"),
        ("x = \n", r"SyntaxError: .* \(at recipe.py:1\)"),
        ("\n\nimport no_such_package\n", r"ModuleNotFoundError: .*no_such_package.* \(at recipe.py:3\)"),
        ("def f():\n    return 1 / 0\nf()\n", r"ZeroDivisionError: .* \(at recipe.py:2\)"),
        ("from tracing import Recipe\nrecipe = Recipe(nam='x')\n", r"unexpected keyword argument 'nam'.*recipe.py:2"),
    ],
)
def test_a_recipe_that_does_not_import_says_where(tmp_path, text, message):
    """File and line of the fault in the recipe, not in a library."""
    (tmp_path / "recipe.py").write_text(text)
    with pytest.raises(RecipeError, match=message):
        loading.load_recipe(str(tmp_path))


def test_all_faults_are_in_one_message(tmp_path):
    """As a list below the recipe's path."""
    path = write_recipe(tmp_path, name="a b", batch_sizes="[]", settings={})
    with pytest.raises(RecipeError) as caught:
        loading.load_recipe(str(path))
    assert len(caught.value.faults) == 3
    assert str(caught.value).startswith(f"{path}: 3 faults\n  - name is 'a b'")


def test_two_recipes_may_import_modules_of_one_name(tmp_path):
    """What lies beside a recipe is forgotten after it."""
    for name, value in (("one", 1), ("other", 2)):
        path = write_recipe(tmp_path / name)
        (tmp_path / name / "helper.py").write_text(f"VALUE = {value}\n")
        path.write_text(f"from helper import VALUE\n{path.read_text()}\nassert VALUE == {value}\n")
        loading.load_recipe(str(path))
    assert "helper" not in sys.modules
    assert str(tmp_path / "one") not in sys.path


def test_a_project_may_hold_its_environment_and_the_kit():
    """Libraries and the kit are nobody's own code, wherever they lie: torch cannot be imported twice."""
    own = loading.modules_from(ROOT)
    assert "tests.recipes" in own
    assert not [name for name in own if name.partition(".")[0] in ("handlers", "tracing", "cli", "serving")]
    everywhere = loading.modules_from(Path("/"))
    assert not {"torch", "json", "pytest", "handlers.errors"} & set(everywhere)


def test_what_a_recipe_imports_is_remembered(tmp_path):
    """Its archive is made from that as well."""
    path = write_recipe(tmp_path)
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    path.write_text("import helper\n" + path.read_text())
    assert loading.load_recipe(str(path)).code == (tmp_path / "helper.py",)


def test_reading_a_recipe_unchecked_needs_no_torch():
    """So that a build that is up to date is known within milliseconds."""
    script = "import sys; from tracing.loading import load_recipe; load_recipe('tiny', checked=False); "
    script += "load_recipe('cifar10', checked=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def build(folder: Path, model: str):
    loaded = loading.load_recipe(str(write_recipe(folder, model=model)))
    with loading.importing_from(loaded.folder):
        return loading.build_model(loaded)


def test_a_model_comes_in_eval_mode_without_gradients(tmp_path):
    """Whatever the author forgot."""
    model = build(tmp_path, "    return torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(3, 3)).train()")
    assert not any(module.training for module in model.modules())
    assert not any(value.requires_grad for value in model.parameters())


def test_a_function_is_a_model(tmp_path):
    """A function of tensors is wrapped into a module."""
    model = build(tmp_path, "    return lambda image: image.mean(dim=(2, 3))")
    assert isinstance(model, torch.nn.Module)
    assert model(torch.ones(2, 3, 8, 8)).shape == (2, 3)


def test_random_weights_are_the_same_on_every_build(tmp_path):
    """A model without a checkpoint is seeded."""
    code = "    return torch.nn.Linear(3, 3)"
    assert torch.equal(build(tmp_path / "a", code).weight, build(tmp_path / "b", code).weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("    return 3", "build_model returned int, expected a torch.nn.Module or a function"),
        ("    pass", "build_model returned NoneType"),
        ("    return torch.load(checkpoint)", "build_model failed at recipe.py:6: AttributeError"),
        ("    import no_such_package", "build_model failed at recipe.py:6: ModuleNotFoundError"),
    ],
)
def test_a_model_that_cannot_be_built_says_where(tmp_path, model, message):
    """File and line in the recipe."""
    with pytest.raises(PreflightError, match=message):
        build(tmp_path, model)
