"""The runner of public examples: what it takes out of a page, how it runs it, and what it says of it."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from neuron_emulator.instances import get_instance

ROOT = Path(__file__).resolve().parents[2]
RUNNER = runpy.run_path(str(ROOT / "scripts" / "run-public-examples"))
PAGE = """\
A page
======

.. code-block:: bash

    export NEURON_RT_NUM_CORES=2
    export NEURON_RT_VISIBLE_CORES='4-7'

.. code-block:: python
    :emphasize-lines: 2

    import os

    if os.environ["NEURON_RT_NUM_CORES"]:
        print("two")

Text between.

.. note::

    .. code:: python

        print("inside")

    Text of the note.

.. code-block:: text

    not code
"""


@pytest.fixture
def examples() -> list[Any]:
    """The examples of the page above."""
    found: list[Any] = RUNNER["extract_examples"](PAGE)
    return found


def test_python_blocks_are_found_in_order_with_their_lines(examples: list[Any]) -> None:
    """Blocks of other languages are left out, and each example says where its page has it."""
    assert [(each.number, each.line) for each in examples] == [(1, 9), (2, 21)]
    assert all(PAGE.splitlines()[each.line - 1].strip().endswith(":: python") for each in examples)


def test_a_block_is_taken_as_it_stands(examples: list[Any]) -> None:
    """Indentation of the page and options of the directive go; blank lines and the code's own indentation stay."""
    assert examples[0].code == 'import os\n\nif os.environ["NEURON_RT_NUM_CORES"]:\n    print("two")\n'
    assert examples[1].code == 'print("inside")\n'


def test_exported_variables_belong_to_the_next_example_only(examples: list[Any]) -> None:
    """A page that exports NEURON_RT_ variables before an example means them for that example."""
    assert examples[0].variables == {"NEURON_RT_NUM_CORES": "2", "NEURON_RT_VISIBLE_CORES": "4-7"}
    assert examples[1].variables == {}


@pytest.mark.parametrize(
    ("code", "kept"),
    [("a = 1\ntrace(a)\nb = 2\n", "a = 1"), ("trace(1)\na = 2\ntrace(a)\n", "trace(1)\na = 2"), ("a = 1\n", "a = 1")],
)
def test_an_example_that_fails_is_cut_before_its_last_call(code: str, kept: str) -> None:
    """What a later example needs of an earlier one ends before the call that raises."""
    assert RUNNER["_cut"](code, "trace") == kept


def test_an_example_runs_on_the_emulated_host() -> None:
    """An example finds the framework, the instance asked for and the files that its page takes as given."""
    code = (
        "import torch, torch_neuron\n"
        "from neuron_emulator.instances import current_instance\n"
        "assert current_instance().name == 'inf1.2xlarge'\n"
        "assert torch.jit.load('model.pt')(torch.rand(1, 3, 224, 224)).shape == (1, 4, 222, 222)\n"
    )
    result = RUNNER["run_example"](code, framework="torch_neuron", instance="inf1.2xlarge", variables={})
    assert result == ("ran", "")


def test_a_file_gives_a_row_for_each_example(tmp_path: Path) -> None:
    """An example that is skipped says why, and an error that the page promises counts as the page's."""
    (tmp_path / "page.rst").write_text(".. code:: python\n\n    raise KeyError('x')\n\n.. code:: python\n\n    1 / 0\n")
    options = {"1": {"expect": "KeyError"}, "2": {"skip": "data only"}}
    entry = {"file": "page.rst", "framework": "torch_neuron", "instance": "inf1.xlarge", "examples": options}
    rows: list[list[str]] = []
    RUNNER["run_file"](tmp_path, {**entry, "held_back": True}, rows)
    assert [row[3] for row in rows] == ["failed as the page says", "not run: data only"]
    assert all(row[4] == "held back" for row in rows)


def test_the_table_counts_what_ran() -> None:
    """The head of the table tells runs, promised failures and skipped examples apart from failures."""
    results = ["ran", "failed as the page says", "not run: data only", "status 1: a|b"]
    text = RUNNER["write_table"]([["page.rst", "1", "inf1.xlarge", result, ""] for result in results])
    assert "2 of 3 did what the page says; 1 are not run." in text
    assert "a\\|b" in text


def test_the_list_names_known_instances_and_keeps_some_back() -> None:
    """Every file of the list has a framework and an instance of the table; about a quarter are held back."""
    files = json.loads((ROOT / "docs" / "public_examples.json").read_text())["files"]
    for entry in files:
        assert entry["framework"] in ("torch_neuron", "torch_neuronx"), entry
        assert get_instance(entry["instance"]).cores, entry
    assert len({entry["file"] for entry in files}) == len(files)
    assert 0.2 <= sum("held_back" in entry for entry in files) / len(files) <= 0.35
