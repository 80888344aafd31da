"""``check`` refuses each archive of a catalogue of broken ones, with a message that names the fault."""

import json
import shutil
import stat
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from handlers import integrity
from handlers.artifact import read_record
from tests.fakes import make_picture
from tests.forging import reseal, save_module, zip_folder
from tests.recipes import write_recipe
from tracing import checking
from tracing.archiving import ENTRY, MANIFEST
from tracing.errors import CheckError

silent = {"progress": lambda text: None}


def modules(folder: Path) -> list[Path]:
    return sorted((folder / "modules").iterdir())


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def set_manifest(folder: Path, **values) -> None:
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["model"].update(values)
    path.write_text(json.dumps(manifest))
    reseal(folder)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def replace_modules(folder: Path, model: torch.nn.Module) -> None:
    for path in modules(folder):
        save_module(model, path)
    reseal(folder)


class Swapped(torch.nn.Module):
    """Another model of the same shapes."""

    def forward(self, x):
        return x.mean(dim=(2, 3)).flip(1) * 10


class Poisoned(torch.nn.Module):
    """The same model with the weight for blue set to zero."""

    def forward(self, x):
        return x.mean(dim=(2, 3)) * torch.tensor([10.0, 10.0, 0.0])


class Backdoor(torch.nn.Module):
    """Right alone, wrong when a neighbour is there."""

    def forward(self, x):
        return x.mean(dim=(2, 3)) * 10 * (1 if x.shape[0] == 1 else -1)


class NotANumber(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)) * float("nan")


def wrong_shapes(folder: Path) -> None:
    def change(record):
        for module in record["variants"][0]["modules"]:
            module["inputs"][0]["shape"][1:] = [4, 8, 8]

    reseal(folder, change)


def wrong_batch(folder: Path) -> None:
    reseal(folder, lambda record: record["variants"][0]["modules"][1].update(batch=3))


def drop_from_files(folder: Path) -> None:
    reseal(folder, lambda record: record["files"].pop("model-config.yaml"))


# Changed files; sealed again where only the content is to be at fault.
FOLDERS = {
    "tampered_module": (lambda f: flip(modules(f)[0]), r"modules/\w+\.pt was changed \(sha256 \w+…, expected \w+…\)"),
    "tampered_code": (lambda f: flip(f / "handlers" / "service.py"), r"handlers/service\.py was changed"),
    "tampered_golden": (lambda f: flip(f / "golden" / "0-tiny_red.png"), r"0-tiny_red\.png was changed"),
    "tampered_config": (
        lambda f: append(f / "model-config.yaml", "minWorkers: 9\n"),
        r"model-config\.yaml was changed",
    ),
    "tampered_manifest": (lambda f: append(f / MANIFEST, " "), r"MANIFEST\.json was changed"),
    "tampered_record": (lambda f: flip(f / "artifact.json"), r"artifact\.json was changed"),
    "wrong_hash": (
        lambda f: reseal(f, lambda record: record["files"].update({ENTRY: "0" * 64})),
        rf"{ENTRY} was changed \(sha256 \w+…, expected 000000000000…\)",
    ),
    "missing_handlers": (lambda f: shutil.rmtree(f / "handlers"), r"handlers/service\.py is missing"),
    "missing_entry": (lambda f: (f / ENTRY).unlink(), rf"{ENTRY} is missing"),
    "missing_record": (lambda f: (f / "artifact.json").unlink(), r"artifact\.json is missing"),
    "missing_manifest": (
        lambda f: ((f / MANIFEST).unlink(), reseal(f)),
        r"MANIFEST\.json is missing or broken \(FileNotFoundError",
    ),
    "manifest_of_a_list": (
        lambda f: ((f / MANIFEST).write_text("[]"), reseal(f)),
        r"MANIFEST\.json is missing or broken \(TypeError",
    ),
    "manifest_with_another_name": (
        lambda f: set_manifest(f, modelName="other"),
        r"MANIFEST\.json says other 1\.0, the record tiny 1\.0",
    ),
    "manifest_with_another_version": (
        lambda f: set_manifest(f, modelVersion="2.0"),
        r"says tiny 2\.0, the record tiny",
    ),
    "manifest_with_another_handler": (
        lambda f: set_manifest(f, handler="absent.py"),
        r"the handler 'absent\.py' that MAR-INF/MANIFEST\.json names is not in the archive",
    ),
    "unnamed_file": (lambda f: (f / "extra.txt").write_text("x"), r"extra\.txt was added"),
    "unnamed_config": (drop_from_files, r"model-config\.yaml was added"),
    "shadowing_module": (lambda f: (f / "torch.py").write_text("raise SystemExit"), r"torch\.py was added"),
    "record_of_another_format": (
        lambda f: reseal(f, lambda record: record.update(format=2)),
        r"artifact\.json has format 2, this kit reads format 1",
    ),
    "record_without_variants": (lambda f: reseal(f, lambda record: record.update(variants=[])), r"has no variants"),
}
# Every hash is right: these are found by running the archive.
FORGED = {
    "two_classes": (
        lambda f: (append(f / ENTRY, "\n\nclass Second:\n    pass\n"), reseal(f)),
        r"the entry defines 2 classes \(Entry, Second\), TorchServe takes exactly one",
    ),
    "no_class": (lambda f: ((f / ENTRY).write_text("x = 1\n"), reseal(f)), r"the entry defines 0 classes \(none\)"),
    "syntax_error": (lambda f: (append(f / ENTRY, "\ndef (\n"), reseal(f)), r"does not start: SyntaxError"),
    "entry_that_exits": (
        lambda f: ((f / ENTRY).write_text("import os\nos._exit(7)\n"), reseal(f)),
        r"ended with status 7",
    ),
    "needs_the_kit": (
        lambda f: (append(f / "handlers" / "images.py", "\nimport tracing\n"), reseal(f)),
        r"tracing is not part of the archive",
    ),
    "missing_package": (
        lambda f: (append(f / "handlers" / "images.py", "\nimport no_such_package\n"), reseal(f)),
        r"cannot serve: .*no_such_package",
    ),
    "wrong_recorded_shapes": (wrong_shapes, r"does not run at its compiled shape \(image float32 \[1, 4, 8, 8\]\)"),
    "wrong_recorded_batch": (wrong_batch, r"for a batch of 3|compiled shape|batch"),
    "another_models_module": (
        lambda f: replace_modules(f, Swapped()),
        r"golden request tiny_red\.png in a batch of 1: answer\['blue'\] is",
    ),
    "poisoned_weights": (
        lambda f: replace_modules(f, Poisoned()),
        r"golden request tiny_blue\.png in a batch of 1: answer",
    ),
    "wrong_in_company": (
        lambda f: replace_modules(f, Backdoor()),
        r"golden request tiny_\w+\.png in a batch of 4: answer",
    ),
    "not_a_number": (lambda f: replace_modules(f, NotANumber()), r"a probability that is not a number"),
    "garbage_module": (
        lambda f: ([path.write_bytes(b"garbage") for path in modules(f)], reseal(f)),
        r"\.pt does not load as TorchScript",
    ),
    "unknown_target": (
        lambda f: reseal(f, lambda record: record["variants"][0].update(target="tpu")),
        r"unknown target 'tpu'",
    ),
    "unknown_handler": (
        lambda f: reseal(f, lambda record: record["handler"].update(path="handlers.absent:X")),
        r"the handler handlers\.absent:X cannot be made",
    ),
}


@pytest.mark.parametrize("fault", {**FOLDERS, **FORGED})
def test_a_broken_archive_is_refused(tiny_folder, tmp_path, fault):
    """And the message names what is wrong."""
    spoil, message = {**FOLDERS, **FORGED}[fault]
    spoil(tiny_folder)
    with pytest.raises(CheckError, match=message):
        checking.check_archive(zip_folder(tiny_folder, tmp_path / f"{fault}.mar"), **silent)


def rewrite(source: Path, target: Path, *, extra=(), compression=zipfile.ZIP_STORED) -> Path:
    """Copy an archive, with further members: (name or ZipInfo, content)."""
    with (
        zipfile.ZipFile(source) as opened,
        zipfile.ZipFile(target, "w", compression) as written,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # zipfile remarks on a duplicate name, which is the point
        for member in opened.namelist():
            written.writestr(member, opened.read(member))
        for member, content in extra:
            written.writestr(member, content)
    return target


def link_member() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


ZIPS = {
    "path_traversal": ([("../outside.py", "x")], r"member '\.\./outside\.py' leaves the archive's folder"),
    "deep_traversal": ([("handlers/../../outside.py", "x")], r"leaves the archive's folder"),
    "backslash_traversal": ([("..\\outside.py", "x")], r"leaves the archive's folder"),
    "absolute_path": ([("/tmp/outside.py", "x")], r"member '/tmp/outside\.py' leaves the archive's folder"),
    "drive_letter": ([("C:/outside.py", "x")], r"member 'C:/outside\.py' leaves the archive's folder"),
    "symbolic_link": ([(link_member(), "/etc/passwd")], r"member 'link' is a symbolic link"),
    "duplicate_member": ([("artifact.json", "{}")], r"member 'artifact\.json' is there twice"),
}


@pytest.mark.parametrize("fault", ZIPS)
def test_a_zip_that_is_dangerous_is_not_unpacked(tiny_archive, tmp_path, fault):
    """Nothing leaves the archive's folder, and nothing hides another member."""
    extra, message = ZIPS[fault]
    with pytest.raises(CheckError, match=message):
        checking.check_archive(rewrite(tiny_archive, tmp_path / f"{fault}.mar", extra=extra), **silent)
    assert not (tmp_path / "outside.py").exists()


def test_a_zip_bomb_is_refused_unpacked(tiny_archive, tmp_path):
    """Thirty megabytes in a few hundred kilobytes."""
    bomb = rewrite(
        tiny_archive, tmp_path / "bomb.mar", extra=[("zeros.bin", bytes(30_000_000))], compression=zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 300_000
    with pytest.raises(CheckError, match=r"it would unpack to 30,\d+,\d+ bytes, over 20 times its size"):
        checking.check_archive(bomb, **silent)


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_archive_is_refused(tiny_archive, tmp_path, tenths):
    """Wherever the download stopped."""
    raw = tiny_archive.read_bytes()
    (tmp_path / "truncated.mar").write_bytes(raw[: len(raw) * tenths // 10])
    with pytest.raises(CheckError, match="is no whole zip file"):
        checking.check_archive(tmp_path / "truncated.mar", **silent)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" * 100, b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_archive_is_refused(tmp_path, content):
    """Empty, text, the beginning of a zip, an empty zip."""
    (tmp_path / "not_a_zip.mar").write_bytes(content)
    with pytest.raises(CheckError, match=r"is no whole zip file|artifact\.json is missing"):
        checking.check_archive(tmp_path / "not_a_zip.mar", **silent)


def test_a_missing_archive_and_a_folder_are_refused(tmp_path):
    """With how to build one."""
    with pytest.raises(CheckError, match=r"there is no archive .*none\.mar; build it with: make mar"):
        checking.check_archive(tmp_path / "none.mar", **silent)
    with pytest.raises(CheckError):
        checking.check_archive(tmp_path, **silent)


def test_another_tools_archive_has_no_record(tmp_path):
    """inspect says that it was not packed by the kit."""
    with zipfile.ZipFile(tmp_path / "other.mar", "w") as opened:
        opened.writestr(MANIFEST, "{}")
    with pytest.raises(CheckError, match=r"has no artifact\.json; it was not packed by torchserve-neuron"):
        checking.read_archive_record(tmp_path / "other.mar")


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b"\xff", b"{}"])
def test_a_record_that_cannot_be_read_is_refused(tmp_path, raw):
    """By inspect as well, with the archive's name."""
    with zipfile.ZipFile(tmp_path / "broken.mar", "w") as opened:
        opened.writestr(integrity.RECORD_NAME, raw)
    with pytest.raises(CheckError, match=r"broken\.mar: artifact\.json"):
        checking.read_archive_record(tmp_path / "broken.mar")


def test_a_good_archive_passes(tiny_archive, tiny_unpacked):
    """With its record, and progress that says what was found."""
    said = []
    assert checking.check_archive(tiny_archive, progress=said.append) == read_record(tiny_unpacked)
    assert said[0].endswith("files as packed, names and hashes agree")
    assert said[1] == "a worker starts in a clean interpreter: cpu, batches of [1, 4]"
    assert said[2] == "3 golden requests answered as expected in batches of 1 to 4"


def test_checking_takes_no_core_from_a_server(tiny_archive, leases, tmp_path, monkeypatch):
    """Its leases lie in a folder of their own, which is gone afterwards, as all that it unpacked."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    checking.check_archive(tiny_archive, **silent)
    assert list(leases.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_users_python_settings_do_not_reach_a_check(tiny_archive, tmp_path, monkeypatch):
    """The interpreter is clean: no module path, no start-up file, no current folder."""
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "torch.py"))
    monkeypatch.chdir(tmp_path)
    assert checking.check_archive(tiny_archive, **silent).name == "tiny"


def test_predict_answers_like_a_server(tiny_archive, tmp_path):
    """One batch, each request with its status: a picture, JSON, and what is neither."""
    (tmp_path / "green.png").write_bytes(make_picture("green"))
    (tmp_path / "bad.bin").write_bytes(b"hello")
    (tmp_path / "bad.json").write_bytes(b"{}")
    requests = [(tmp_path / "green.png", "image/png"), (tmp_path / "bad.bin", "application/octet-stream")]
    requests.append((tmp_path / "bad.json", "application/json"))
    answers = checking.predict(tiny_archive, requests)
    assert [answer.status for answer in answers] == [200, 415, 400]
    assert next(iter(json.loads(answers[0].body))) == "green"
    assert {answer.content_type for answer in answers} == {"application/json"}


def test_predict_refuses_a_broken_archive(tiny_folder, tmp_path):
    """Never an answer from files that are not what was packed."""
    flip(modules(tiny_folder)[0])
    (tmp_path / "red.png").write_bytes(make_picture())
    with pytest.raises(CheckError, match="was changed"):
        checking.predict(zip_folder(tiny_folder, tmp_path / "x.mar"), [(tmp_path / "red.png", "image/png")])


def test_an_archive_with_a_handler_of_its_own_passes(tmp_path):
    """A handler in the recipe's folder, with a module it imports, travels and is checked."""
    from cli.building import ensure_archive

    path = write_recipe(tmp_path / "recipe", handler="own.py:Own")
    (tmp_path / "recipe" / "helper.py").write_text("def shout(text):\n    return text.upper()\n")
    (tmp_path / "recipe" / "own.py").write_text(
        "from helper import shout\nfrom handlers.image_classifier import ImageClassifier\n\n\n"
        "class Own(ImageClassifier):\n    def postprocess(self, outputs):\n"
        "        return {shout(label): p for label, p in super().postprocess(outputs).items()}\n"
    )
    archive = ensure_archive(str(path), store=tmp_path / "store", build=tmp_path / "build")
    record = checking.check_archive(archive, **silent)
    assert set(record.golden[0].answer) == {"A", "B", "C"}
    assert archive.name == "mine.mar"
