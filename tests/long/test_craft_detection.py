"""The shipped text detector on twenty pictures that it has not seen, on each target."""

import json
import subprocess
import sys

import pytest
import torch

from tests.servers import ROOT
from tests.text_pictures import encode, find_all, make_scenes, network

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("target", ["cpu", "inf1", "inf2"])
def test_nine_of_ten_words_are_found(target, tmp_path):
    """At an overlap of one half; words and font are others than in training. inf1 and inf2 are emulated."""
    emulated = [] if target == "cpu" else ["--emulate"]
    places = ["--store", tmp_path / "store", "--build", tmp_path / "build"]
    _run("mar", "craft_small", "--target", target, *emulated, *places)
    scenes = make_scenes(20, seed=2)
    paths = [tmp_path / f"{number:02}.png" for number in range(20)]
    for path, scene in zip(paths, scenes, strict=True):
        path.write_bytes(encode(scene.image))
    lines = iter(_run("predict", tmp_path / "store" / "craft_small.mar", *paths, *emulated).splitlines())
    score = find_all(scenes, lambda _: json.loads(next(lines)))
    print(f"{target}: {score.words} words, recall {score.recall:.3f}, precision {score.precision:.3f}")
    assert score.words >= 100
    assert score.recall >= 0.9
    assert score.precision >= 0.85


def _run(*words: object) -> str:
    command = [sys.executable, "-m", "cli.main", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_resumes_and_writes_weights_that_load(tmp_path):
    """Stopped after a few steps, it goes on from there; other settings are refused."""
    script = ROOT / "tracing" / "recipes" / "craft_small" / "train.py"
    places = ["--work", tmp_path / "work", "--out", tmp_path / "weights.safetensors"]

    def train(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, script, *places, *words]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False)

    first = train("--minutes", 0.1)
    assert first.returncode == 0, first.stderr
    network.load_network(tmp_path / "weights.safetensors")
    steps = torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert steps >= 1
    assert "other settings" in train("--minutes", 0.1, "--seed", 1).stderr
    again = train("--minutes", 0.1)
    assert again.returncode == 0, again.stderr
    assert torch.load(tmp_path / "work" / "checkpoint.pt", weights_only=True)["progress"]["step"] >= steps
