"""What travels in an archive stays light: four imports, old Pythons, no TorchServe, and never the building half."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "handlers").rglob("*.py"))
ALLOWED = {"handlers", "torch", "numpy", "PIL"}
LATE = {"captum", "tokenizers"}  # imported in functions only, by handlers whose models need them


def imported_by(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names.add(str(node.module).partition(".")[0])
    return names


def names_of(node: ast.stmt) -> list[str]:
    """Return the top-level packages that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return [str(node.module).partition(".")[0]]
    return [each.name.partition(".")[0] for each in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_a_container_has(path):
    """Standard library, torch, numpy, pillow and its own package; the few others when they are needed."""
    found = imported_by(path)
    assert found <= ALLOWED | LATE | set(sys.stdlib_module_names)
    outside = {name for node in ast.parse(path.read_text()).body for name in names_of(node)}
    assert not outside & LATE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_valid_on_python_38(path):
    """The Python of the older containers."""
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_names_no_generics_that_python_38_lacks(path):
    """list[int] and X | None are evaluated when the module is imported, and fail there."""
    builtin = {"list", "dict", "tuple", "set", "frozenset", "type"}
    tree = ast.parse(path.read_text())
    subscripts = [
        node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    ]
    assert [node.lineno for node in subscripts if node.value.id in builtin] == []
    annotations = [
        each
        for node in ast.walk(tree)
        for each in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if each is not None
    ]
    assert [each.lineno for each in annotations if isinstance(each, ast.BinOp)] == []


def test_targets_do_not_import_one_another():
    """What differs between chips lies in one file each."""
    for path in (ROOT / "handlers" / "targets").glob("[a-z]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith("handlers.targets")


def test_the_package_imports_cheaply_and_quietly():
    """The entry imports it before it has verified the rest: no torch, no output."""
    script = "import sys, handlers, handlers.errors, handlers.integrity; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
