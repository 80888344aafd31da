"""The script that runs an archive as TorchServe would, and its stand-in for TorchServe's context."""

import ast
import base64
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.fakes import make_picture
from tracing import checking, clean_run
from tracing.clean_run import StandInContext, find_handler_class


def run_script(folder: Path, batches) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(checking.CLEAN_RUN), str(folder)],
        input=json.dumps(batches),
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), done.stderr


def test_an_archive_is_run_and_answers(tiny_folder):
    """State first, then the answers to each batch, as one line of JSON."""
    request = {"body": base64.b64encode(make_picture("blue")).decode(), "type": "image/png"}
    result, _ = run_script(tiny_folder, [[request], [request, request]])
    assert result["state"]["status"] == "ready"
    assert [len(batch) for batch in result["batches"]] == [1, 2]
    answer = result["batches"][1][1]
    assert (answer["status"], answer["type"]) == (200, "application/json")
    assert next(iter(json.loads(base64.b64decode(answer["body"])))) == "blue"


def test_what_an_archive_prints_is_not_mixed_with_the_result(tiny_folder):
    """Its output goes to standard error, whether from Python or from below it."""
    entry = tiny_folder / "torchserve_entry.py"
    entry.write_text("import os\nprint('from Python')\nos.system('echo from below')\n" + entry.read_text())
    result, errors = run_script(tiny_folder, [])
    assert "state" in result
    assert "from Python" in errors
    assert "from below" in errors


def test_a_folder_that_is_no_archive_is_a_fault(tmp_path):
    """The result says what is wrong rather than ending in a traceback."""
    result, _ = run_script(tmp_path, [])
    assert "FileNotFoundError" in result["fault"]


@pytest.mark.parametrize(
    "answers", ["None", "'text'", "[]", "[b'1', b'2']"], ids=["nothing", "no list", "too few", "too many"]
)
def test_an_entry_that_answers_wrongly_is_a_fault(tmp_path, answers):
    """TorchServe would fail the whole batch with 503."""
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "x", "handler": "entry.py"}}')
    (tmp_path / "entry.py").write_text(
        "class Entry:\n    def initialize(self, context): pass\n"
        f"    def handle(self, rows, context): return {answers}\n"
    )
    result, _ = run_script(tmp_path, [])
    assert "for 1 requests, expected a list of as many" in result["fault"]


@pytest.mark.parametrize("name", ["tracing", "serving", "cli", "ts", "model_archiver", "tracing.recipe"])
def test_the_building_half_and_torchserve_are_out_of_reach(name):
    """An archive that imports them would work on the packer's machine only."""
    with pytest.raises(ImportError, match="is not part of the archive"):
        clean_run.Blocker().find_spec(name)
    assert clean_run.Blocker().find_spec("json") is None


@pytest.mark.parametrize(
    ("text", "found"), [("class A: pass", "A"), ("from json import JSONDecoder as B\nclass A: pass", "A")]
)
def test_the_one_class_that_the_entry_defines_is_taken(text, found):
    """Imported classes do not count."""
    module = types.ModuleType("entry")
    exec(text, module.__dict__)
    assert find_handler_class(module).__name__ == found


@pytest.mark.parametrize(
    ("text", "message"), [("", r"0 classes \(none\)"), ("class A: pass\nclass B: pass", r"2 classes \(A, B\)")]
)
def test_none_or_two_classes_are_refused(text, message):
    """By TorchServe's rule."""
    module = types.ModuleType("entry")
    exec(text, module.__dict__)
    with pytest.raises(ValueError, match=message):
        find_handler_class(module)


def test_the_stand_in_has_what_torchserves_context_has():
    """Every public name of the stand-in is one of TorchServe's, with the same arguments."""
    context = pytest.importorskip("ts.context")
    import inspect

    for name, function in inspect.getmembers(StandInContext, inspect.isfunction):
        if name.startswith("_") or name == "begin":
            continue
        theirs = inspect.signature(getattr(context.Context, name)).parameters
        ours = inspect.signature(function).parameters
        assert len(ours) == len(theirs), name


def test_the_stand_in_keeps_statuses_and_headers_for_each_request():
    """What a handler sets for one row is seen for that row only."""
    context = StandInContext("x", {"model": {"modelName": "m"}}, 4)
    context.begin([{"a": "1"}, {}])
    context.set_response_status(413, "Payload Too Large", 1)
    context.set_response_content_type(0, "text/plain")
    assert context.statuses == [(200, ""), (413, "Payload Too Large")]
    assert context.response_headers == [{"content-type": "text/plain"}, {}]
    assert (context.get_request_header(0, "a"), context.get_request_header(1, "a")) == ("1", None)


def test_the_script_runs_on_the_oldest_python_and_needs_the_standard_library_alone():
    """It is started in whatever interpreter a container has."""
    tree = ast.parse(checking.CLEAN_RUN.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= set(sys.stdlib_module_names)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
