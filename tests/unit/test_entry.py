"""The file that TorchServe imports: it trusts nothing of the archive before it has verified it, and never raises."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.fakes import make_picture
from tests.forging import reseal
from tracing import checking
from tracing.clean_run import find_handler_class

# A worker's Python as TorchServe sets it up: the model folder first on the path, the entry imported by name.
DRIVE = """
import json, sys, importlib
folder, clean_run, picture = sys.argv[1:4]
sys.path.insert(0, clean_run)
import clean_run
sys.path[0] = folder
entry = importlib.import_module("torchserve_entry")
handler = clean_run.find_handler_class(entry)()
context = clean_run.StandInContext(folder, {"model": {"modelName": "tiny"}}, 4)
before = set(sys.modules)
handler.initialize(context)
loaded = sorted(set(sys.modules) - before)
context.begin([{}, {}, {"describe": "True"}])
rows = [{"body": bytearray(open(picture, "rb").read())}, {"body": b""}, {}]
answers = handler.handle(rows, context)
statuses = [status for status, _ in context.statuses]
print(json.dumps({"answers": [json.loads(each) for each in answers], "statuses": statuses,
                  "loaded": [name for name in loaded if name.partition(".")[0] in ("handlers", "torch")],
                  "bytecode": sys.dont_write_bytecode}))
"""


@pytest.fixture
def drive(tiny_folder, tmp_path):
    """Run the entry of ``tiny_folder`` in a process of its own that cannot see the kit."""
    (tmp_path / "red.png").write_bytes(make_picture("red"))

    def run(*options: str, **environment: str) -> dict:
        arguments = [str(tiny_folder), str(checking.CLEAN_RUN.parent), str(tmp_path / "red.png")]
        done = subprocess.run(
            [sys.executable, *options, "-c", DRIVE, *arguments],
            cwd=tiny_folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
        )
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}

    return run


def test_a_whole_archive_answers(drive):
    """From the archive's own code, with the kit out of sight."""
    result = drive()
    assert result["statuses"] == [200, 400, 200]
    assert next(iter(result["answers"][0])) == "red"
    assert result["answers"][2]["status"] == "ready"
    assert result["bytecode"] is True


def test_a_worker_leaves_no_bytecode_in_the_archive(drive, tiny_folder):
    """Another start finds what was packed, apart from the entry's own bytecode."""
    drive()
    left = {path.relative_to(tiny_folder).parts[0] for path in tiny_folder.rglob("*.pyc")}
    assert left <= {"__pycache__"}
    assert drive()["statuses"][0] == 200


def change_byte(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


TAMPERED = {
    "a module": lambda f: change_byte(next((f / "modules").iterdir())),
    "the service": lambda f: change_byte(f / "handlers" / "service.py"),
    "the record": lambda f: change_byte(f / "artifact.json"),
    "a golden request": lambda f: change_byte(f / "golden" / "0-tiny_red.png"),
    "the entry": lambda f: (f / "torchserve_entry.py").write_text(
        (f / "torchserve_entry.py").read_text() + "\n# changed\n"
    ),
    "added code": lambda f: (f / "numpy.py").write_text("raise SystemExit('smuggled in')"),
    "a file missing": lambda f: (f / "handlers" / "payloads.py").unlink(),
}


@pytest.mark.parametrize("fault", TAMPERED)
def test_a_changed_archive_is_answered_with_503_before_anything_of_it_runs(drive, tiny_folder, fault):
    """Neither torch nor the rest of the archive is imported."""
    TAMPERED[fault](tiny_folder)
    result = drive()
    assert result["statuses"] == [503, 503, 200]
    assert result["answers"][0]["type"] == "BrokenArchive"
    assert "the archive is not what was packed: " in result["answers"][0]["message"]
    assert result["answers"][2]["status"] == "cannot serve"
    assert result["loaded"] == ["handlers", "handlers.errors", "handlers.integrity"]


@pytest.mark.parametrize("package", ["torch", "numpy", "PIL"])
def test_a_missing_package_is_named(drive, tiny_folder, tmp_path, package):
    """503 with the package's name and what to do, though the import fails deep inside."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / f"{package}.py").write_text(f'raise ImportError("No module named {package}")')
    result = drive(PYTHONPATH=str(tmp_path / "block"))
    assert result["statuses"][:2] == [503, 503]
    assert package in result["answers"][0]["message"]
    assert "install" in result["answers"][0]["message"] or result["answers"][0]["type"] == "ModelUnusable"


def test_a_missing_kit_is_answered_too(drive, tiny_folder):
    """Even without its own package the entry imports and answers."""
    shutil.rmtree(tiny_folder / "handlers")
    result = drive()
    assert result["statuses"][:2] == [503, 503]
    assert "handlers" in result["answers"][0]["message"]


def test_a_failed_check_of_the_model_is_answered_with_its_reason(drive, tiny_folder):
    """What the service finds reaches clients as it is."""
    reseal(tiny_folder, lambda record: record["golden"][1].update(answer={"red": 1.0}))
    result = drive()
    assert result["answers"][0]["type"] == "GoldenMismatch"
    assert "tiny_green.png" in result["answers"][0]["message"]


def test_the_entry_has_exactly_one_class():
    """TorchServe refuses a module with two."""
    from handlers import entry

    assert find_handler_class(entry) is entry.Entry


def test_before_initialize_a_request_is_answered():
    """A worker that is asked too early says that it is still starting."""
    from handlers.entry import Entry
    from tests.fakes import make_context

    context = make_context("nowhere")
    (answer,) = Entry().handle([{}], context)
    assert context.statuses == [(503, "Service Unavailable")]
    assert json.loads(answer)["message"] == "the worker is still starting"
