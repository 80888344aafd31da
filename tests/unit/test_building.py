"""The build: recipes of every kind come through, and each fault of a model stops it with its figures."""

import json
import re

import pytest

from handlers import integrity
from handlers.artifact import read_record
from handlers.errors import KitError, NoTarget
from tests.recipes import write_recipe
from tracing import building
from tracing.errors import BuildError, CompileError, PreflightError, RecipeError, VerificationError
from tracing.loading import load_recipe

LINEAR = "torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))"


def function(code: str, before: str = "") -> str:
    """Return the body of build_model for a model that computes ``code`` from ``image`` and ``scores``."""
    return f"""    network = {LINEAR}.eval()
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network
        def forward(self, image):
            scores = self.network(image)
            {code}
    model = Model()
    {before}
    return model
"""


def trace(folder, progress=lambda text: None, **changes):
    path = write_recipe(folder / "recipe", **changes)
    return building.trace(str(path), target_names=["cpu"], folder=folder / "artifact", progress=progress)


def test_a_build_records_what_it_made(tmp_path):
    """Variant, figures, golden answers, sources, versions and the hash of every file."""
    record = trace(tmp_path)
    (variant,) = record.variants
    assert (record.name, variant.target, variant.parameters, variant.outputs) == ("mine", "cpu", 12, ("output",))
    assert [module.batch for module in variant.modules] == [1, 2]
    assert variant.verification["max_abs_error"] < 1e-4
    assert [golden.name for golden in record.golden] == ["red.png", "green.png"]
    assert abs(sum(record.golden[0].answer.values()) - 1) < 1e-5
    assert set(record.sources) == {"code/recipe.py", "golden/0-red.png", "golden/1-green.png"}
    assert {"torch", "python", "machine", "kit"} <= set(record.built_with)
    on_disk = {
        p.relative_to(tmp_path / "artifact").as_posix() for p in (tmp_path / "artifact").rglob("*") if p.is_file()
    }
    assert set(record.files) == on_disk - {integrity.RECORD_NAME}


def test_the_record_on_disk_is_the_one_returned(tmp_path):
    """Sealed, and read back the same."""
    record = trace(tmp_path)
    read = read_record(tmp_path / "artifact")
    assert read.files == record.files
    assert integrity.is_sealed((tmp_path / "artifact" / integrity.RECORD_NAME).read_bytes())
    assert integrity.find_faults(tmp_path / "artifact", []) == []


def test_progress_names_each_step(tmp_path):
    """Whoever waits sees recipe, preflight, each batch size, and the figures."""
    said = []
    trace(tmp_path, said.append)
    steps = [
        "recipe mine 1.0",
        "preflight passed on 2 golden",
        "compiled batch 1",
        "compiled batch 2",
        "verified cpu on",
    ]
    assert [line for line, step in zip(said, steps, strict=True) if not line.startswith(step)] == []


STOPS = {
    "branch on data": (
        function("return scores if image.mean() > 0 else -scores"),
        (CompileError, r"recipe\.py:13 decides by the values of a tensor"),
    ),
    "NaN weights": (
        function("return scores", "model.network[2].weight.data[0, 0] = float('nan')"),
        (PreflightError, "the weights network.2.weight hold NaN"),
    ),
    "turns itself to training": (
        function("return scores", "model.eval = lambda: model.train()"),
        (PreflightError, "the model is in training mode"),
    ),
    "four labels for three": (
        function("return torch.cat([scores, scores[:, :1]], 1)"),
        (PreflightError, r"shape \[2, 4\], expected \(batch, 3\)"),
    ),
    "probabilities already": (
        function("return scores.softmax(1)"),
        (PreflightError, "probabilities already; say activation='none'"),
    ),
    "leaks across the batch": (
        function("return scores + scores.mean(0)"),
        (VerificationError, "the model mixes the items of a batch: item 0 alone and with 9 others differs by"),
    ),
    "random": (
        function("return scores + torch.rand_like(scores)"),
        (VerificationError, r"mixes the items|Largest error [\d.e-]+ absolute"),
    ),
    "of another input": (
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(27, 3))",
        (PreflightError, r"does not run on the recipe's inputs \(float32 \[2, 3, 8, 8\]\)"),
    ),
}


@pytest.mark.parametrize("fault", STOPS)
def test_a_faulty_model_stops_the_build(tmp_path, fault):
    """With the place or the figures, and nothing is left behind."""
    model, (kind, message) = STOPS[fault]
    with pytest.raises(kind, match=message):
        trace(tmp_path, model=model)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe"]


def test_a_compiled_model_out_of_tolerance_stops_the_build_with_figures(tmp_path):
    """bf16 is not within a thousandth of float32."""
    with pytest.raises(VerificationError, match=r"Largest error [\d.e-]+ absolute, [\d.e-]+ relative"):
        trace(tmp_path, more="targets={'cpu': {'precision': 'bf16'}},")
    tolerances = "tolerances=Tolerances(absolute=0.1, relative=0.1, cosine=0.99, top1=0.5),"
    record = trace(tmp_path, more=f"targets={{'cpu': {{'precision': 'bf16'}}}}, {tolerances}")
    assert record.variants[0].options == {"precision": "bf16"}
    assert record.variants[0].verification["max_abs_error"] > 1e-4


def test_a_failed_build_leaves_the_artifact_as_it_was(tmp_path):
    """The last good one can still be packed."""
    trace(tmp_path)
    before = (tmp_path / "artifact" / integrity.RECORD_NAME).read_bytes()
    with pytest.raises(PreflightError):
        trace(tmp_path, model=STOPS["NaN weights"][0])
    assert (tmp_path / "artifact" / integrity.RECORD_NAME).read_bytes() == before
    assert not (tmp_path / "artifact.building").exists()


def test_a_recipe_with_faults_is_not_built(tmp_path):
    """They are reported before anything costly runs."""
    with pytest.raises(RecipeError, match="2 faults"):
        trace(tmp_path, name="a b", batch_sizes="[]")


def test_an_unknown_target_is_refused_at_once(tmp_path):
    """With those there are."""
    path = write_recipe(tmp_path / "recipe")
    with pytest.raises(NoTarget, match="unknown target 'tpu'; this version of the kit has cpu"):
        building.trace(str(path), target_names=["cpu", "tpu"], folder=tmp_path / "a", progress=print)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "golden request red.png cannot be read: the request has an empty body"),
        (b"no picture", "golden request red.png cannot be read: the 10 bytes are no picture"),
    ],
)
def test_a_golden_request_that_the_handler_refuses_stops_the_build(tmp_path, content, message):
    """It could never be replayed."""
    path = write_recipe(tmp_path / "recipe")
    (tmp_path / "recipe" / "red.png").write_bytes(content)
    with pytest.raises(KitError, match=message) as caught:
        building.trace(str(path), target_names=["cpu"], folder=tmp_path / "a", progress=lambda text: None)
    assert "red.png" in str(caught.value)
    assert isinstance(caught.value, (BuildError, RecipeError))


FUNCTION = "    return lambda image: image.mean(dim=(2, 3)) * 10"
SELECTED = function("return torch.where(image.mean(dim=(1, 2, 3), keepdim=False)[:, None] > 9, -scores, scores)")


@pytest.mark.parametrize("model", [FUNCTION, SELECTED, function("return (scores, image)")])
def test_models_of_other_forms_come_through(tmp_path, model):
    """A function, a selection by torch.where, a tuple."""
    record = trace(tmp_path, model=model)
    assert len(record.golden[0].answer) == 3


def test_names_of_a_dictionary_are_kept(tmp_path):
    """The record has the model's own names for its outputs."""
    record = trace(tmp_path, model=function("return {'logits': scores, 'mean': image.mean(dim=(1, 2, 3))}"))
    assert record.variants[0].outputs == ("logits", "mean")


PAIRS = '''
import json

import torch

from handlers.errors import BadRequest
from handlers.handler import Handler


class Pairs(Handler):
    """Takes {"a": [...], "b": n} as the file's JSON text."""

    @classmethod
    def check_settings(cls, settings, inputs):
        return [] if "scale" in settings else ["settings: expected scale"]

    def preprocess(self, item):
        try:
            content = json.loads(item)
            return torch.tensor(content["a"]), torch.tensor(content["b"])
        except (ValueError, KeyError) as exc:
            raise BadRequest(f"no pair: {exc}")

    def postprocess(self, outputs):
        return {"total": float(outputs[0]) * self.settings["scale"], "embedding": outputs[1].tolist()}
'''
PAIRS_MODEL = """
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(7, 4)
        def forward(self, a, b):
            return {"total": a.sum(dim=1) + b.float(), "embedding": self.table(b) * a.mean(dim=1, keepdim=True)}
    return Model()
"""


def write_pairs(folder, **changes):
    """Write a recipe with two inputs, a dictionary of outputs, and a handler of its own."""
    path = write_recipe(
        folder,
        model=PAIRS_MODEL,
        inputs="Input(name='a', shape=('batch', 5)), Input(name='b', shape=('batch',), dtype='int64', high=7)",
        handler="pairs.py:Pairs",
        **{"settings": {"scale": 2}, **changes},
    )
    (folder / "pairs.py").write_text(PAIRS)
    for colour, number in (("red", 3), ("green", 5)):
        body = json.dumps({"a": [0.5, 1.0, 1.5, 2.0, 2.5], "b": number}).encode()
        # A form that read_payload takes for a file, because it does not begin with a bracket.
        (folder / f"{colour}.png").write_bytes(b" " * 64 + body)
    return path


def test_a_model_of_two_inputs_with_a_handler_of_its_own_is_built(tmp_path):
    """Floats and integers in, a dictionary out; the handler's source is part of what the archive is made from."""
    path = write_pairs(tmp_path / "pairs")
    record = building.trace(str(path), target_names=["cpu"], folder=tmp_path / "a", progress=lambda text: None)
    assert record.handler.path == "pairs:Pairs"
    assert record.variants[0].outputs == ("total", "embedding")
    assert record.golden[0].answer["total"] == 2 * (7.5 + 3)
    assert "code/pairs.py" in record.sources


def test_an_own_handler_names_the_faults_of_its_settings(tmp_path):
    """check_settings runs before anything is built."""
    path = write_pairs(tmp_path / "pairs", settings={})
    with pytest.raises(RecipeError, match="settings: expected scale"):
        load_recipe(str(path))


def up_to_date(record, path, targets=("cpu",)) -> bool:
    return building.is_up_to_date(record, str(path), list(targets))


def test_nothing_changed_is_up_to_date(tmp_path):
    """No build is repeated for nothing."""
    assert up_to_date(trace(tmp_path), tmp_path / "recipe" / "recipe.py")


@pytest.mark.parametrize("change", ["recipe", "golden", "handler", "helper", "gone", "target"])
def test_whatever_an_archive_is_made_from_makes_it_out_of_date(tmp_path, change):
    """The recipe, what it imports, a golden request, the handler, or other targets."""
    folder = tmp_path / "pairs"
    path = write_pairs(folder)
    (folder / "helper.py").write_text("VALUE = 1\n")
    path.write_text("import helper\n" + path.read_text())
    record = building.trace(str(path), target_names=["cpu"], folder=tmp_path / "a", progress=lambda text: None)
    assert up_to_date(record, path)
    files = {
        "recipe": path,
        "golden": folder / "red.png",
        "handler": folder / "pairs.py",
        "helper": folder / "helper.py",
    }
    if change in files:
        files[change].write_bytes(files[change].read_bytes() + b"\n")
    if change == "gone":
        (folder / "red.png").unlink()
    assert not up_to_date(record, path, ["cpu", "inf1"] if change == "target" else ["cpu"])


def test_another_kit_or_torch_makes_an_archive_out_of_date(tmp_path):
    """What compiled it counts as much as what was compiled."""
    record = trace(tmp_path)
    for name in ("torch", "kit", "python", "machine"):
        changed = {**record.built_with, name: "other"}
        assert not up_to_date(
            type(record)(**{**vars(record), "built_with": changed}), tmp_path / "recipe" / "recipe.py"
        )


def test_golden_answers_are_rounded(tmp_path):
    """Six decimals: the same text on machines that round differently."""
    text = json.dumps(trace(tmp_path).golden[0].answer)
    assert re.findall(r"\d\.\d{7,}", text) == []
