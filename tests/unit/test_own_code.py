"""Which files and packages a user's own handler takes along."""

import pytest

from tracing.own_code import find_foreign_imports, find_own_code

FILES = {
    "own.py": "import json, words.lists\nfrom helper import VALUE\nfrom handlers.handler import Handler\n",
    "helper.py": "import later\nVALUE = 1\n",
    "later.py": "import own  # in a circle\ndef f():\n    import hidden\n",
    "hidden.py": "",
    "words/__init__.py": "from . import common\n",
    "words/common.py": "from .deeper.last import END\n",
    "words/lists.py": "from words import nothing_of_that_name\n",
    "words/deeper/__init__.py": "",
    "words/deeper/last.py": "from ..lists import LIST\n",
    "unused.py": "",
    "recipe.py": "import unused\n",
}


@pytest.fixture
def folder(tmp_path):
    """A recipe's folder with a handler that imports by every road."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_all_that_is_imported_travels_and_nothing_else(folder):
    """By name, from a package, relatively, late, in a circle; not the recipe nor what only that imports."""
    found = {path.relative_to(folder).as_posix() for path in find_own_code(folder / "own.py", folder)}
    assert found == set(FILES) - {"unused.py", "recipe.py"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import pandas.core", ["pandas"]),
        ("from sklearn import svm", ["sklearn"]),
        ("def late():\n    import pandas", ["pandas"]),
        ("import os, torch.nn, numpy, PIL.Image, handlers.images", []),
        ("try:\n    import pandas\nexcept ImportError:\n    pandas = None", []),
        ("import helper", []),
    ],
)
def test_packages_that_a_container_may_lack_are_named(folder, line, expected):
    """Not the standard library, not what every container has, not what a ``try`` guards."""
    (folder / "own.py").write_text(f"\n{line}\n")
    found = find_foreign_imports([folder / "own.py"], folder)
    assert [each.package for each in found] == expected
    assert all(each.place.startswith("own.py:") for each in found)
