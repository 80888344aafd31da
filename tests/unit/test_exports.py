"""The documented import path: sorted, complete, and each name of it there."""

import ast
import inspect
from pathlib import Path

import tracing
from handlers import errors, targets
from handlers.errors import KitError
from tracing import errors as tracing_errors

ROOT = Path(__file__).resolve().parents[2]


def test_all_is_sorted_and_holds_every_public_name():
    """What the package offers is what it lists."""
    assert list(tracing.__all__) == sorted(tracing.__all__, key=lambda name: (not name.isupper(), name))
    tree = ast.parse((ROOT / "tracing" / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(tracing.__all__)
    assert all(hasattr(tracing, name) for name in tracing.__all__)


def test_every_type_of_a_recipes_fields_is_offered():
    """A recipe's author needs no second import."""
    types = {type(value).__name__ for value in (tracing.Tolerances(), tracing.Input(name="x", shape=("batch",)))}
    assert types | {"Recipe", "NEEDED"} == set(tracing.__all__)


def test_every_error_is_in_the_tree_and_drawn_in_it():
    """One root, a sentence each, and the drawing shows them all."""
    for module in (errors, tracing_errors):
        classes = [
            kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__
        ]
        for kind in classes:
            assert issubclass(kind, KitError)
            assert kind.__doc__
            assert kind.__name__ in module.__doc__


def test_every_target_has_the_same_names():
    """What differs between chips lies behind one set of functions."""
    described = [line.split("(")[0].strip("`") for line in targets.__doc__.splitlines() if line.startswith("``")]
    assert len(described) >= 8
    for name in targets.TARGETS:
        module = targets.get_target(name)
        assert [each for each in described if not callable(getattr(module, each, None))] == []
