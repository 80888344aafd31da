"""Archives: torch-model-archiver's layout, the same bytes wherever they are made, whole or not at all."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import yaml

from handlers import integrity
from handlers.artifact import read_record
from tests.recipes import write_recipe
from tracing import archiving, building
from tracing.archiving import render_config, write_archive
from tracing.errors import PackingError, RecipeError
from tracing.loading import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PACK = """
import os, sys, shutil
from pathlib import Path
os.umask(int(sys.argv[4], 8))
from tracing.archiving import write_archive
from tracing.loading import load_recipe
write_archive(Path(sys.argv[1]), load_recipe(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The recipe and the artifact of a small model; tests do not change them."""
    folder = tmp_path_factory.mktemp("traced")
    path = write_recipe(folder / "recipe")
    building.trace(str(path), target_names=["cpu"], folder=folder / "artifact", progress=lambda text: None)
    return load_recipe(str(path)), folder / "artifact"


def pack(traced, output: Path) -> Path:
    loaded, artifact = traced
    write_archive(artifact, loaded, output)
    return output


def pack_elsewhere(traced, output: Path, *, umask: str = "022", cwd: Path = ROOT, **environment: str) -> bytes:
    """Return the bytes of an archive that a process of its own has packed."""
    loaded, artifact = traced
    done = subprocess.run(
        [sys.executable, "-c", PACK, str(artifact), str(loaded.file), str(output), umask],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


SURROUNDINGS = {
    "umask": {"umask": "077"},
    "time zone": {"TZ": "Pacific/Kiritimati"},
    "user": {"USER": "somebody", "LOGNAME": "somebody", "HOME": "/nonexistent"},
    "language": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
    "hash seed": {"PYTHONHASHSEED": "123"},
    "time": {"SOURCE_DATE_EPOCH": "1", "FAKETIME": "2001-01-01"},
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_surroundings_do_not_reach_the_bytes(traced, tmp_path, name):
    """The same sha256 under another umask, time zone, user, language or hash seed."""
    expected = pack(traced, tmp_path / "here.mar").read_bytes()
    assert pack_elsewhere(traced, tmp_path / "there.mar", **SURROUNDINGS[name]) == expected


@pytest.mark.parametrize("name", ["a,b", "a b", "a[b]", "a*b", "a?b", "grün"])
def test_a_temporary_folder_of_any_name_will_do(traced, tmp_path, name):
    """The archiver takes commas and brackets in its list of files for more than a name."""
    (tmp_path / name).mkdir()
    packed = pack_elsewhere(traced, tmp_path / "there.mar", TMPDIR=str(tmp_path / name))
    assert packed == pack(traced, tmp_path / "here.mar").read_bytes()
    assert list((tmp_path / name).iterdir()) == []


def test_another_folder_and_another_build_give_the_same_bytes(tmp_path):
    """Two recipes of equal files, each built from the start by a process of its own, in folders of other names."""
    packed = []
    for name in ("one", "an other, deeper/place"):
        path = write_recipe(tmp_path / name / "recipe")
        store = tmp_path / name / "store"
        arguments = ["mar", str(path), "--store", str(store), "--build", str(tmp_path / name / "build")]
        subprocess.run([sys.executable, "-m", "cli.main", *arguments], cwd=ROOT, check=True, capture_output=True)
        packed.append((store / "mine.mar").read_bytes())
    assert packed[0] == packed[1]


def test_the_order_and_times_of_the_files_do_not_matter(traced, tmp_path):
    """Members are sorted, stored, and dated 1980."""
    loaded, artifact = traced
    copy = tmp_path / "copy"
    for path in sorted(artifact.rglob("*"), reverse=True):
        if path.is_file():
            (copy / path.relative_to(artifact)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy / path.relative_to(artifact))
            os.utime(copy / path.relative_to(artifact), (1, 1))
    one, other = pack(traced, tmp_path / "a.mar"), pack((loaded, copy), tmp_path / "b.mar")
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as opened:
        assert {member.date_time for member in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {member.external_attr >> 16 for member in opened.infolist()} == {0o100644}
        assert {member.compress_type for member in opened.infolist()} == {zipfile.ZIP_STORED}
        assert opened.namelist() == sorted(opened.namelist())


def test_layout_and_manifest_are_those_of_the_archivers_own_command(traced, tmp_path):
    """The same members and the same manifest as torch-model-archiver makes of the files, but for the time."""
    ours = pack(traced, tmp_path / "mine.mar")
    files = tmp_path / "files"
    with zipfile.ZipFile(ours) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
        opened.extractall(files)
    shutil.rmtree(files / "MAR-INF")
    for name in (archiving.ENTRY, archiving.CONFIG):
        shutil.move(files / name, tmp_path / name)
    (tmp_path / "theirs").mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "mine", "--version", "1.0"]
    command += ["--handler", str(tmp_path / archiving.ENTRY), "--config-file", str(tmp_path / archiving.CONFIG)]
    command += ["--extra-files", str(files), "--export-path", str(tmp_path / "theirs"), "--runtime", "python"]
    script = "import sys; from model_archiver.model_packaging import generate_model_archive; generate_model_archive()"
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, *command[3:]],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "theirs" / "mine.mar") as opened:
        theirs = {name: opened.read(name) for name in opened.namelist() if not name.endswith("/")}
    manifest, their_manifest = json.loads(members.pop(archiving.MANIFEST)), json.loads(theirs.pop(archiving.MANIFEST))
    assert members == theirs
    assert {**manifest, "createdOn": ""} == {**their_manifest, "createdOn": ""}


def test_two_builds_of_one_name_do_not_disturb_each_other(traced, tmp_path):
    """The archiver stages below the temporary folder under the model's name; ours does so in private."""
    loaded, artifact = traced
    arguments = [sys.executable, "-c", PACK, str(artifact), str(loaded.file)]
    running = [
        subprocess.Popen([*arguments, str(tmp_path / f"{n}.mar"), "022"], cwd=ROOT, stderr=subprocess.PIPE)
        for n in range(3)
    ]
    errors = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors
    assert len({(tmp_path / f"{n}.mar").read_bytes() for n in range(3)}) == 1


def test_a_users_folder_of_the_models_name_survives(traced, tmp_path, monkeypatch):
    """Though it lies where the archiver would stage, which deletes what is there."""
    (tmp_path / "tmp" / "mine").mkdir(parents=True)
    (tmp_path / "tmp" / "mine" / "thesis.txt").write_text("precious")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    pack(traced, tmp_path / "mine.mar")
    assert (tmp_path / "tmp" / "mine" / "thesis.txt").read_text() == "precious"
    assert tempfile.tempdir == str(tmp_path / "tmp")
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["mine"]


def test_a_failure_leaves_the_old_archive_in_place(traced, tmp_path):
    """Whole or not at all, and no partial file beside it."""
    output = pack(traced, tmp_path / "store" / "mine.mar")
    before = output.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # as on a full disk: members fit, the archive does not
    try:
        with pytest.raises(PackingError, match="File too large"):
            pack(traced, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["mine.mar"]


def test_a_place_that_cannot_be_written_is_named(traced, tmp_path):
    """A file where a folder should be, or no space: the path and what to do."""
    (tmp_path / "store").write_text("a file")
    with pytest.raises(PackingError, match=r"store/mine\.mar cannot be written: .*; free the space or fix the perm"):
        pack(traced, tmp_path / "store" / "mine.mar")


def test_an_archive_is_as_readable_as_the_umask_says(traced, tmp_path):
    """A server of another user must be able to read it."""
    mask = os.umask(0o027)
    try:
        output = pack(traced, tmp_path / "mine.mar")
    finally:
        os.umask(mask)
    assert output.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["torchserve_entry.py", "artifact.json", "model-config.yaml", "golden", "handlers"])
def test_a_file_of_a_taken_name_is_refused(tmp_path, name):
    """A user's extra file cannot take the place of one of the archive's own."""
    path = write_recipe(tmp_path / "recipe", more=f"extra_files=[{name!r}],")
    (tmp_path / "recipe" / name).write_text("x")
    with pytest.raises(RecipeError, match=f"extra_files: {name} is a name of the archive's own; rename yours"):
        load_recipe(str(path))


def test_extra_files_and_an_own_handler_lie_at_the_root(tmp_path):
    """Where a worker imports from."""
    path = write_recipe(tmp_path / "recipe", handler="own.py:Own", more="extra_files=['data/table.csv', 'helper.py'],")
    (tmp_path / "recipe" / "data").mkdir()
    (tmp_path / "recipe" / "data" / "table.csv").write_text("1,2\n")
    (tmp_path / "recipe" / "helper.py").write_text("VALUE = 1\n")
    own = (
        "import helper\nfrom handlers.image_classifier import ImageClassifier\nclass Own(ImageClassifier):\n    pass\n"
    )
    (tmp_path / "recipe" / "own.py").write_text(own)
    building.trace(str(path), target_names=["cpu"], folder=tmp_path / "artifact", progress=lambda text: None)
    record = write_archive(tmp_path / "artifact", load_recipe(str(path)), tmp_path / "mine.mar")
    assert {"own.py", "table.csv", "helper.py"} <= set(record.files)


def test_the_record_names_every_other_member_with_its_hash(traced, tmp_path):
    """Nothing in the archive is outside the chain."""
    output = pack(traced, tmp_path / "mine.mar")
    with zipfile.ZipFile(output) as opened:
        opened.extractall(tmp_path / "files")
    record = read_record(tmp_path / "files")
    with zipfile.ZipFile(output) as opened:
        assert set(record.files) == set(opened.namelist()) - {integrity.RECORD_NAME}
    integrity.verify_files(tmp_path / "files")


def test_an_archive_holds_the_travelling_half_and_nothing_of_the_building_one(traced, tmp_path):
    """No recipe, no tracing, no tests."""
    with zipfile.ZipFile(pack(traced, tmp_path / "mine.mar")) as opened:
        names = set(opened.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"MAR-INF", "handlers", "modules", "golden", "artifact.json", archiving.ENTRY, archiving.CONFIG}
    assert {"handlers/service.py", "handlers/targets/cpu.py"} <= names
    assert "handlers/entry.py" not in names


def test_the_servers_settings_come_from_the_recipe(traced):
    """The largest compiled batch, and both timeouts."""
    loaded, artifact = traced
    settings = yaml.safe_load(render_config(read_record(artifact), loaded))
    assert settings == {"batchSize": 2, "maxBatchDelay": 1, "responseTimeout": 120, "startupTimeout": 120}
