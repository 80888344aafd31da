"""The commands that build and look at archives, as a person or a script calls them."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.building import ensure_archive
from cli.main import main
from handlers import integrity
from tests.fakes import make_picture
from tests.forging import reseal, zip_folder
from tests.recipes import write_recipe
from tracing import loading

ROOT = Path(__file__).resolve().parents[2]


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(each) for each in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def mar(capsys, folder: Path, *arguments):
    return run(capsys, "mar", folder / "recipe", "--store", folder / "store", "--build", folder / "build", *arguments)


def test_mar_builds_and_prints_the_archive(capsys, tmp_path):
    """The path alone on standard output, for scripts; progress on standard error."""
    write_recipe(tmp_path / "recipe")
    status, out, err = mar(capsys, tmp_path)
    assert (status, out) == (0, f"{tmp_path / 'store' / 'mine.mar'}\n")
    assert f"sha256 {integrity.hash_file(tmp_path / 'store' / 'mine.mar')}" in err


def test_mar_builds_again_only_what_has_changed(capsys, tmp_path):
    """Nothing, then after a change, then by force."""
    path = write_recipe(tmp_path / "recipe")
    mar(capsys, tmp_path)
    assert "mine.mar is up to date" in mar(capsys, tmp_path)[2]
    path.write_text(path.read_text() + "# changed\n")
    assert "wrote " in mar(capsys, tmp_path)[2]
    assert "wrote " in mar(capsys, tmp_path, "--force")[2]


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_mar_replaces_a_broken_archive(capsys, tmp_path, content):
    """And says why it builds."""
    write_recipe(tmp_path / "recipe")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine.mar").write_bytes(content)
    status, _, err = mar(capsys, tmp_path)
    assert status == 0
    assert "building again: " in err


def test_trace_then_pack_gives_what_mar_gives(capsys, tmp_path):
    """The two steps of one command."""
    write_recipe(tmp_path / "recipe")
    mar(capsys, tmp_path)
    folders = ["--store", tmp_path / "other", "--build", tmp_path / "steps"]
    status, out, _ = run(capsys, "trace", tmp_path / "recipe", *folders)
    assert (status, Path(out.strip())) == (0, tmp_path / "steps" / "mine")
    assert run(capsys, "pack", tmp_path / "recipe", *folders)[0] == 0
    assert (tmp_path / "other" / "mine.mar").read_bytes() == (tmp_path / "store" / "mine.mar").read_bytes()


def test_pack_without_trace_says_what_is_missing(capsys, tmp_path):
    """The record that was looked for."""
    write_recipe(tmp_path / "recipe")
    status, out, err = run(capsys, "pack", tmp_path / "recipe", "--build", tmp_path / "none", "--store", tmp_path)
    assert (status, out) == (1, "")
    assert "artifact.json cannot be read" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mar", "tinny"], "error: tinny: there is no such recipe; shipped are "),
        (["check", "none.mar"], "error: there is no archive none.mar; build it with"),
        (["inspect", "none.mar"], "error: there is no archive none.mar"),
        (["predict", "none.mar", "none.png"], "error: there is no file none.png"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_1(capsys, tmp_path, monkeypatch, arguments, message):
    """No traceback."""
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_target_is_refused_with_those_there_are(capsys, tmp_path):
    """By the same message everywhere."""
    write_recipe(tmp_path / "recipe")
    status, _, err = mar(capsys, tmp_path, "--target", "tpu")
    assert status == 1
    assert "unknown target 'tpu'; this version of the kit has cpu" in err


@pytest.mark.parametrize("arguments", [[], ["bake"], ["mar"], ["predict", "x.mar"], ["mar", "tiny", "--colour", "red"]])
def test_wrong_usage_is_status_2(capsys, arguments):
    """As with every command line."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: torchserve-neuron" in capsys.readouterr().err


def test_check_says_that_an_archive_is_fit(capsys, tiny_archive):
    """One line on standard output, status 0."""
    status, out, err = run(capsys, "check", tiny_archive)
    assert (status, out) == (0, f"{tiny_archive}: tiny 1.0 is fit to be served\n")
    assert "golden requests answered as expected" in err


def test_check_refuses_a_broken_archive(capsys, tiny_folder, tmp_path):
    """Status 1 and the fault."""
    (tiny_folder / "handlers" / "images.py").write_text("")
    status, out, err = run(capsys, "check", zip_folder(tiny_folder, tmp_path / "x.mar"))
    assert (status, out) == (1, "")
    assert "handlers/images.py was changed" in err


def test_inspect_prints_a_table(capsys, tiny_archive):
    """Variants, shapes, versions, figures and hashes, a line each."""
    _, out, _ = run(capsys, "inspect", tiny_archive)
    lines = {line[:28].strip(): line[28:] for line in out.splitlines()}
    assert lines["model"] == "tiny 1.0  red, green or blue: the smallest example"
    assert lines["archive"].endswith(f"bytes, sha256 {integrity.hash_file(tiny_archive)}")
    assert lines["batch 4"].startswith("image float32 [4, 3, 8, 8] -> output  modules/")
    assert lines["variant"] == "cpu"
    assert lines["golden requests"] == "tiny_red.png, tiny_green.png, tiny_blue.png"
    assert (lines["verified on"], lines["golden tolerance"]) == ("cpu", "0.01")
    assert float(lines["max_abs_error"]) < 1e-4
    assert "handlers/service.py" in lines.values()


def test_inspect_prints_json(capsys, tiny_archive):
    """The whole record, with the archive's hash."""
    _, out, _ = run(capsys, "inspect", "--json", tiny_archive)
    record = json.loads(out)
    assert (record["name"], record["variants"][0]["target"]) == ("tiny", "cpu")
    assert record["archive_sha256"] == integrity.hash_file(tiny_archive)


def test_predict_answers_one_line_for_each_request(capsys, tiny_archive, tmp_path):
    """As a server would; status 1 if one is refused."""
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_picture(colour))
    (tmp_path / "bad.pdf").write_text("hello")
    status, out, _ = run(capsys, "predict", tiny_archive, tmp_path / "red.png", tmp_path / "blue.png")
    assert status == 0
    assert [next(iter(json.loads(line))) for line in out.splitlines()] == ["red", "blue"]
    status, out, _ = run(capsys, "predict", tiny_archive, tmp_path / "red.png", tmp_path / "bad.pdf")
    assert status == 1
    assert json.loads(out.splitlines()[1])["code"] == 415


@pytest.mark.parametrize("target", ["inf1", "inf2"])
def test_an_archive_is_emulated_on_the_chip_that_it_is_for(capsys, tiny_folder, tmp_path, target):
    """``check FILE --emulate`` needs no instance: the smallest with a variant's target is taken."""
    reseal(tiny_folder, lambda record: record["variants"][0].update(target=target))
    zip_folder(tiny_folder, tmp_path / "other.mar")
    assert f"EMULATED: {target}.xlarge" in run(capsys, "check", tmp_path / "other.mar", "--emulate")[2]


def test_recipes_are_listed_with_what_they_are(capsys):
    """A line each."""
    status, out, _ = run(capsys, "recipes")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == loading.list_recipes()
    assert "red, green or blue" in out


def test_the_model_store_is_named_by_a_variable(tmp_path):
    """So that make and the command agree."""
    write_recipe(tmp_path / "recipe")
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "mar", str(tmp_path / "recipe"), "--build", str(tmp_path / "build")],
        cwd=ROOT,
        env={**os.environ, "MODEL_STORE": str(tmp_path / "named")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "named" / "mine.mar")


def test_a_reader_that_has_seen_enough_is_no_error(tiny_archive):
    """``inspect | head -1`` ends quietly."""
    command = f"{shlex.quote(sys.executable)} -m cli.main inspect {shlex.quote(str(tiny_archive))} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("model ")
    assert "Traceback" not in done.stderr


def test_ensure_archive_returns_at_once_what_is_up_to_date(tiny_archive, capsys):
    """Without building: the second run of make serve starts in seconds."""
    before = tiny_archive.stat().st_mtime_ns
    again = ensure_archive("tiny", store=tiny_archive.parent, build=tiny_archive.parent.parent / "artifacts")
    assert (again, again.stat().st_mtime_ns) == (tiny_archive, before)
    assert capsys.readouterr().err == ""


def test_a_build_needs_no_folder_to_be_there(tmp_path):
    """Store and build folders are made."""
    write_recipe(tmp_path / "recipe")
    archive = ensure_archive(str(tmp_path / "recipe"), store=tmp_path / "a" / "b", build=tmp_path / "c" / "d")
    assert archive.is_file()
    shutil.rmtree(tmp_path / "c")
