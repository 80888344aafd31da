"""A recipe and a handler that lie in a folder of a user's own: a kind of model that the kit does not know."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from handlers.cores import LEASE_FOLDER_VARIABLE
from tests.console import run_console
from tests.ports import find_port_row

# Counts letters: a text of any length in, the shares of vowels and of each letter's weight out.
FILES = {
    "letters.py": '''
from tracing import Input, Recipe


def build_model(checkpoint):
    import torch

    def weigh(codes, mask):
        """Which letters are vowels, and their share, for codes and mask of shape (N, letters)."""
        vowels = torch.zeros_like(mask)
        for code in (97, 101, 105, 111, 117):
            vowels = vowels + (codes == code).to(mask.dtype)
        vowels = vowels * mask
        return {"vowels": vowels, "share": vowels.sum(1) / mask.sum(1).clamp(min=1)}

    return weigh


recipe = Recipe(
    name="letters",
    build_model=build_model,
    inputs=[
        Input(name="codes", shape=("batch", "letters"), dtype="int64", high=128),
        Input(name="mask", shape=("batch", "letters")),
    ],
    buckets=[{"letters": 4}, {"letters": 12}],
    batch_sizes=[1, 4],
    handler="handling/counter.py:Counter",
    golden=["hello.txt"],
    extra_files=["data/greeting.txt"],
)
''',
    "handling/__init__.py": "",
    "handling/counter.py": """
import numpy as np

from handlers.errors import BadRequest, TooLarge
from handlers.handler import Handler, Sample
from handlers.payloads import Payload, read_body
from handling.words import clean


class Counter(Handler):
    parameters = (*Handler.parameters, "shout")

    def read(self, row, content_types):
        body = read_body(row, content_types, self.parameters)
        if not isinstance(body.value, bytes):
            raise BadRequest("send a text")
        return Payload([body.value.decode()])

    def preprocess(self, item):
        text = clean(item)
        if len(text) > self.buckets[-1][0].shape[1]:
            raise TooLarge("%d letters, at most %d are taken" % (len(text), self.buckets[-1][0].shape[1]))
        codes = np.array([ord(letter) for letter in text])
        return Sample((codes, np.ones(len(codes), np.float32)), note=text)

    def answer(self, outputs, note, parameters):
        greeting = (self.folder / "greeting.txt").read_text().strip()
        shown = note.upper() if parameters.get("shout") else note
        return {"greeting": greeting, "text": shown, "vowels": outputs[0].tolist(), "share": float(outputs[1])}
""",
    "handling/words.py": """
def clean(item):
    from handlers.errors import BadRequest

    text = "".join(letter for letter in item.lower() if "a" <= letter <= "z")
    if not text:
        raise BadRequest("the text has no letters")
    return text
""",
    "hello.txt": "Hello!",
    "data/greeting.txt": "good day\n",
}


def write_files(folder: Path) -> Path:
    """Write the user's files and return the recipe's."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "letters.py"


@pytest.fixture(scope="module", params=["cpu", pytest.param("inf1", marks=pytest.mark.long)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the user's archive; its recipe's folder is gone by then."""
    base, port = tmp_path_factory.mktemp("own"), find_port_row(5)
    recipe = write_files(base / "my project")
    environment = {**os.environ, LEASE_FOLDER_VARIABLE: str(base / "l"), "NEURON_EMULATOR_FOLDER": str(base / "n")}
    chip = [] if request.param == "cpu" else ["--target", request.param, "--emulate"]
    places = ("--store", str(base / "store"), "--build", str(base / "build"))
    built = run_console(environment, "mar", str(recipe), *places, *chip)
    assert built.returncode == 0, built.stderr
    (base / "my project").rename(base / "elsewhere")
    archive = str(base / "store" / "letters.mar")
    done = run_console(environment, "serve", archive, "--port", str(port), "--workers", "1", *chip)
    try:
        assert done.returncode == 0, done.stderr
        yield f"http://127.0.0.1:{port}/predictions/letters"
    finally:
        run_console(environment, "stop", "--port", str(port))


@pytest.mark.parametrize(
    ("text", "accept", "expected"),
    [
        ("Oh", "*/*", {"greeting": "good day", "text": "oh", "vowels": [1, 0], "share": 0.5}),
        (
            "abcde fg",
            "*/*",
            {"greeting": "good day", "text": "abcdefg", "vowels": [1, 0, 0, 0, 1, 0, 0], "share": 2 / 7},
        ),
        ("Oh", "application/json; shout=1", {"greeting": "good day", "text": "OH", "vowels": [1, 0], "share": 0.5}),
    ],
)
def test_it_answers(served: str, text: str, accept: str, expected: dict) -> None:
    """Texts of two buckets, masked and cropped to their own lengths, a file and a module of the user's, a parameter."""
    headers = {"Content-Type": "text/plain", "Accept": accept}
    answer = requests.post(served, data=text.encode(), headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {**expected, "share": pytest.approx(expected["share"], abs=0.01)}


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [("1 2 3", 400, "the text has no letters"), ("a" * 13, 413, "13 letters, at most 12 are taken")],
)
def test_its_own_errors_reach_the_client(served: str, text: str, status: int, message: str) -> None:
    """With the status and the words that the user's code has given them."""
    answer = requests.post(served, data=text.encode(), headers={"Content-Type": "text/plain"}, timeout=30)
    assert (answer.status_code, answer.json()["message"]) == (status, message)


@pytest.mark.long
def test_a_package_that_the_recipe_does_not_name_stops_the_packing(tmp_path: Path) -> None:
    """With the file, the line and what to write."""
    recipe = write_files(tmp_path)
    words = tmp_path / "handling" / "words.py"
    words.write_text("import requests\n" + words.read_text())
    places = ("--store", str(tmp_path / "store"), "--build", str(tmp_path / "build"))
    done = run_console(os.environ, "mar", str(recipe), *places)
    assert done.returncode == 1
    assert (
        "the handler imports requests (handling/words.py:1), which a container for TorchServe may lack" in done.stderr
    )
    recipe.write_text(recipe.read_text().replace("golden=", 'requirements=["requests==2.34.2"],\n    golden='))
    done = run_console(os.environ, "mar", str(recipe), *places)
    assert "needs requests==2.34.2 beyond torch, numpy and pillow" in done.stderr
    assert "requests==2.34.2" in run_console(os.environ, "inspect", str(tmp_path / "store" / "letters.mar")).stdout
