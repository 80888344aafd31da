"""Weights of the user's own: given by path, asked for at random, and never mixed up."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cli.main import main
from tests.recipes import write_recipe
from tracing import building, checking
from tracing.errors import PreflightError, RecipeError
from tracing.loading import build_model, importing_from, load_recipe, with_any_weights
from tracing.sources import has_weights

# Scores are the checkpoint's numbers times the colours' means; of random weights, whatever the seed gives.
MODEL = """
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))
    if checkpoint is not None:
        file = checkpoint / "weights.pt" if checkpoint.is_dir() else checkpoint
        model[2].weight.data = torch.load(file, weights_only=True)
    return model
"""


def write(folder: Path, more: str = "checkpoint='needed',", **changes) -> str:
    """Write a recipe that needs the user's weights and return its path."""
    return str(write_recipe(folder / "recipe", **{"model": MODEL, "more": more, **changes}))


def save(path: Path, factor: float = 2.0) -> str:
    """Write a checkpoint and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(factor * torch.eye(3), path)
    return str(path)


def trace(folder: Path, model: str, weights: str | None):
    return building.trace(
        model, target_names=["cpu"], folder=folder / "artifact", progress=lambda text: None, weights=weights
    )


def up_to_date(record, model: str, weights: str | None = None) -> bool:
    return building.is_up_to_date(record, model, ["cpu"], weights)


def run(capsys, command: str, model: str, folder: Path, *arguments) -> tuple[int, str, str]:
    words = [command, model, "--store", folder / "store", "--build", folder / "build", *arguments]
    status = main([str(each) for each in words])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("inside", ["own.pt", "folder/weights.pt"])
def test_a_model_is_built_with_the_weights_that_are_given(tmp_path, inside):
    """A file, or a folder whose files are all part of what the archive is made from."""
    model, given = write(tmp_path), Path(save(tmp_path / inside, 5.0))
    weights = given.parent if "/" in inside else given
    record = trace(tmp_path, model, str(weights))
    assert next(iter(record.golden[0].answer)) == "a"
    assert record.golden[0].answer["a"] > 0.9
    assert not record.random_weights
    assert [name for name in record.sources if name.startswith("checkpoint")] == [
        "checkpoint/weights.pt" if "/" in inside else "checkpoint"
    ]


def test_a_path_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    """As a person types it, not to the recipe's file."""
    model = write(tmp_path)
    save(tmp_path / "here" / "own.pt")
    monkeypatch.chdir(tmp_path / "here")
    assert load_recipe(model, weights="own.pt").checkpoint == tmp_path / "here" / "own.pt"


def test_links_keep_their_names(tmp_path):
    """In a cache of downloads the link has the ending, and its target has none."""
    blob, link = Path(save(tmp_path / "blobs" / "0a1b2c")), tmp_path / "weights.pt"
    link.symlink_to(blob)
    assert load_recipe(write(tmp_path), weights=str(link)).checkpoint == link


def test_random_weights_are_recorded(tmp_path):
    """And only then; building again gives the same ones."""
    model = write(tmp_path)
    first, second = (trace(tmp_path / name, model, "random") for name in "ab")
    assert first.random_weights
    assert first == second
    assert "checkpoint" not in first.sources


def test_a_recipe_that_needs_weights_says_both_ways(tmp_path):
    """The user's own, or random ones, for the command and for make."""
    with pytest.raises(RecipeError, match=r"--weights FILE \(make: WEIGHTS=FILE\).*--weights random \(make: WEIGHTS="):
        trace(tmp_path, write(tmp_path), None)


@pytest.mark.parametrize(
    ("weights", "more", "message"),
    [
        ("nowhere.pt", "checkpoint='needed',", r"--weights: there is no file or folder .*nowhere.pt; expected weights"),
        ("empty", "checkpoint='needed',", r"the folder .*empty holds no file"),
        ("random", "", r"--weights random: the recipe takes none, its checkpoint is None"),
        ("own.pt", "", r"own.pt: the recipe takes none.*checkpoint=NEEDED"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(tmp_path, monkeypatch, weights, more, message):
    """Before anything is built, as a fault of the recipe is."""
    save(tmp_path / "own.pt")
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "config").write_text("hidden files are no weights")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, more), weights=weights)


def test_given_weights_replace_the_recipes_own(tmp_path):
    """And without them its own are used again."""
    save(tmp_path / "recipe" / "own.pt", 1.5)
    model = write(tmp_path, "checkpoint='own.pt',")
    other = save(tmp_path / "other.pt", 5.0)
    own, given = trace(tmp_path / "a", model, None), trace(tmp_path / "b", model, other)
    assert own.golden[0].answer["a"] < 0.7 < given.golden[0].answer["a"]
    assert up_to_date(own, model)
    assert not up_to_date(given, model)
    assert not up_to_date(own, model, other)


def test_random_weights_need_a_recipe_that_can_build_without_a_checkpoint(tmp_path):
    """One that cannot is told what it is called with."""
    save(tmp_path / "recipe" / "own.pt")
    reads = "    return torch.nn.Linear(3, 3).load_state_dict(torch.load(checkpoint))"
    model = write(tmp_path, "checkpoint='own.pt',", model=reads)
    with pytest.raises(PreflightError, match=r"recipe.py:6: .*; for random weights it is called with None"):
        trace(tmp_path, model, "random")


def test_random_weights_replace_own_ones_where_the_recipe_can(tmp_path):
    """For a measurement, say; it is marked all the same."""
    save(tmp_path / "recipe" / "own.pt")
    model = write(tmp_path, "checkpoint='own.pt',")
    record = trace(tmp_path, model, "random")
    assert record.random_weights
    assert up_to_date(record, model, "random")
    assert not up_to_date(record, model)


@pytest.mark.parametrize(
    ("built", "fitting", "others"),
    [
        ("a.pt", ["a.pt", "copy.pt"], ["b.pt", "random", "folder"]),
        ("random", ["random"], ["a.pt", "folder"]),
        ("folder", ["folder"], ["a.pt", "random"]),
    ],
)
def test_an_archive_of_other_weights_is_out_of_date(tmp_path, monkeypatch, built, fitting, others):
    """Of those that are asked for; where none are, those that it was built with will do."""
    monkeypatch.chdir(tmp_path)
    for name, factor in (("a.pt", 2.0), ("b.pt", 3.0), ("folder/weights.pt", 2.0)):
        save(tmp_path / name, factor)
    (tmp_path / "copy.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    model = write(tmp_path)
    record = trace(tmp_path, model, built)
    assert up_to_date(record, model)
    assert not up_to_date(record, model, "nowhere.pt")
    for asked in fitting:
        assert up_to_date(record, model, asked)
        assert has_weights(record, model, asked)
    for asked in others:
        assert not up_to_date(record, model, asked)
        assert not has_weights(record, model, asked)


def test_a_file_of_the_folder_that_changes_makes_the_archive_out_of_date(tmp_path):
    """Any one, because the recipe may read any; but none that is hidden."""
    model, folder = write(tmp_path), Path(save(tmp_path / "folder" / "weights.pt")).parent
    (folder / "vocabulary.txt").write_text("a b c")
    record = trace(tmp_path, model, str(folder))
    (folder / ".cache").write_text("of a download")
    assert up_to_date(record, model, str(folder))
    (folder / "vocabulary.txt").write_text("a b d")
    assert not up_to_date(record, model, str(folder))


def test_an_archive_built_before_a_change_is_out_of_date_without_its_weights(tmp_path):
    """What is unchanged is the weights; the recipe is compared as ever."""
    model = write(tmp_path)
    record = trace(tmp_path, model, "random")
    Path(model).write_text(Path(model).read_text() + "# changed\n")
    assert not up_to_date(record, model)


def test_extra_files_that_come_with_the_weights_belong_to_them(tmp_path):
    """A tokenizer in the user's folder: without WEIGHTS the archive stands, with another folder it does not."""
    more = "checkpoint='needed', extra_files=lambda checkpoint: [checkpoint / 'vocabulary.txt'] if checkpoint else [],"
    model = write(tmp_path, more)
    for name in ("one", "other"):
        save(tmp_path / name / "weights.pt")
        (tmp_path / name / "vocabulary.txt").write_text(name)
    record = trace(tmp_path, model, str(tmp_path / "one"))
    assert (tmp_path / "artifact" / "vocabulary.txt").read_text() == "one"
    assert up_to_date(record, model)
    assert up_to_date(record, model, str(tmp_path / "one"))
    assert not up_to_date(record, model, str(tmp_path / "other"))


def test_where_sizes_count_random_weights_will_do(tmp_path):
    """For a plan of cores; a recipe with weights of its own keeps them."""
    loaded = with_any_weights(load_recipe(write(tmp_path)))
    assert loaded.has_random_weights
    with importing_from(loaded.folder):
        assert sum(value.numel() for value in build_model(loaded).parameters()) == 9
    assert not with_any_weights(load_recipe("cifar10")).has_random_weights


def test_mar_takes_weights_and_keeps_them(capsys, tmp_path):
    """Built once with them; the commands after that need not repeat them."""
    model = write(tmp_path)
    status, _, err = run(capsys, "mar", model, tmp_path)
    assert status == 1
    assert "WEIGHTS=random" in err
    assert run(capsys, "mar", model, tmp_path, "--weights", save(tmp_path / "own.pt"))[0] == 0
    assert "is up to date" in run(capsys, "mar", model, tmp_path)[2]
    assert "is up to date" in run(capsys, "mar", model, tmp_path, "--weights", tmp_path / "own.pt")[2]
    assert "RANDOM WEIGHTS: it is not trained" in run(capsys, "mar", model, tmp_path, "--weights", "random")[2]
    assert checking.read_archive_record(tmp_path / "store" / "mine.mar").random_weights


def test_inspect_says_that_weights_are_random(capsys, tmp_path):
    """First of all in the table, and in the JSON; of other archives it says nothing."""
    model, archive = write(tmp_path), str(tmp_path / "store" / "mine.mar")
    run(capsys, "mar", model, tmp_path, "--weights", "random")
    main(["inspect", archive])
    assert capsys.readouterr().out.startswith("RANDOM WEIGHTS  ")
    main(["inspect", archive, "--json"])
    assert json.loads(capsys.readouterr().out)["random_weights"] is True
    run(capsys, "mar", model, tmp_path, "--weights", save(tmp_path / "own.pt"))
    main(["inspect", archive])
    assert "RANDOM" not in capsys.readouterr().out


def test_pack_refuses_an_artifact_of_other_weights(capsys, tmp_path):
    """What was traced is what is packed; without the option, whatever was traced."""
    model, own = write(tmp_path), save(tmp_path / "own.pt")
    assert run(capsys, "trace", model, tmp_path, "--weights", own)[0] == 0
    status, _, err = run(capsys, "pack", model, tmp_path, "--weights", "random")
    assert status == 1
    assert "was traced with other weights than random; trace it again with these" in err
    assert run(capsys, "pack", model, tmp_path, "--weights", own)[0] == 0
    assert run(capsys, "pack", model, tmp_path)[0] == 0


def test_an_archive_is_served_with_the_weights_inside(capsys, tmp_path):
    """--weights beside a .mar would be ignored, so it is refused."""
    archive = tmp_path / "mine.mar"
    archive.write_bytes(b"")
    status = main(["serve", str(archive), "--weights", "random", "--port", "18950"])
    assert status == 1
    assert "mine.mar has its weights inside; --weights is for a recipe" in capsys.readouterr().err


def test_a_record_without_the_mark_is_not_taken_for_the_random_one(tmp_path):
    """The mark itself is compared, because neither kind of archive names a checkpoint."""
    model = write(tmp_path)
    record = trace(tmp_path, model, "random")
    assert not up_to_date(dataclasses.replace(record, random_weights=False), model, "random")
