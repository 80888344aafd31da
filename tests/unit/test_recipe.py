"""A recipe's rules: every fault has its message, and all are reported together."""

import dataclasses

import pytest

from handlers.artifact import TensorSpec
from tracing import Input, Recipe, Tolerances
from tracing.loading import importing_from
from tracing.recipe import find_faults, handler_file, handler_path, tensor_specs

GOOD = {
    "name": "mine",
    "build_model": lambda checkpoint: None,
    "inputs": [Input(name="image", shape=("batch", 3, 8, 8))],
    "handler": "image_classifier",
    "golden": ["a.png"],
    "settings": {"labels": ["a", "b"]},
}


@pytest.fixture
def faults(tmp_path):
    """Return the faults of a good recipe with some fields exchanged, in a folder with the files it names."""
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "own.py").write_text(
        "from handlers.handler import Handler\nclass Own(Handler):\n    pass\nclass Other:\n    pass\n"
    )
    (tmp_path / "broken.py").write_text("class Broken(:\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"y")

    def find(**changes):
        with importing_from(tmp_path):
            return find_faults(Recipe(**{**GOOD, **changes}), tmp_path)

    return find


def image(**changes) -> list[Input]:
    return [dataclasses.replace(GOOD["inputs"][0], **changes)]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": "my model"}, "name is 'my model', expected letters, digits"),
        ({"name": "../up"}, "name is '../up'"),
        ({"name": ""}, "name is ''"),
        ({"name": "mine\n"}, "name is 'mine\\n'"),
        ({"name": 3}, "name is 3"),
        ({"version": "v 1"}, "version is 'v 1'"),
        ({"version": 1.0}, "version is 1.0"),
        ({"build_model": "model.py"}, "build_model is 'model.py', expected a function"),
        ({"build_model": lambda: None}, "build_model must take one argument"),
        ({"inputs": []}, "inputs is [], expected a list with at least one Input"),
        ({"inputs": "image"}, "inputs is 'image'"),
        ({"inputs": [("batch", 3)]}, "expected a list with at least one Input"),
        ({"inputs": image(dtype="float")}, "input 'image' has dtype 'float', expected one of float32"),
        ({"inputs": image(shape=(1, 3, 8, 8))}, "input 'image' has shape (1, 3, 8, 8), expected 'batch' and then"),
        ({"inputs": image(shape=("batch", 3, "a width", 8))}, "expected 'batch' and then whole numbers"),
        ({"inputs": image(shape=("batch", 3, "width", 8))}, "the dimension(s) width vary: buckets must give"),
        ({"buckets": [{"width": 8}]}, "expected a whole number over 0 for each of: none, because no dimension varies"),
        ({"buckets": {"width": 8}}, "buckets is {'width': 8}, expected a list of dictionaries"),
        ({"keep_on_cpu": "softmax"}, "keep_on_cpu is 'softmax', expected a list of submodules' names"),
        ({"inputs": image(shape=("batch", 3, 0, 8))}, "expected 'batch' and then whole numbers"),
        ({"inputs": image(shape=())}, "expected 'batch' and then whole numbers"),
        ({"batch_sizes": []}, "batch_sizes is [], expected a list of whole numbers over 0"),
        ({"batch_sizes": [0, 1]}, "batch_sizes is [0, 1]"),
        ({"batch_sizes": [True]}, "batch_sizes is [True]"),
        ({"batch_sizes": 4}, "batch_sizes is 4"),
        ({"batch_sizes": [1, 4, 1]}, "batch_sizes is [1, 4, 1], expected no size twice"),
        ({"batch_delay_ms": 0}, "batch_delay_ms is 0, expected a whole number over 0"),
        ({"cores_per_worker": 1.5}, "cores_per_worker is 1.5"),
        ({"response_timeout_s": "120"}, "response_timeout_s is '120'"),
        ({"tolerances": Tolerances(absolute=-1)}, "tolerances: absolute is -1, expected a number of 0 or more"),
        ({"tolerances": Tolerances(golden=float("nan"))}, "tolerances: golden is nan"),
        ({"tolerances": Tolerances(cosine="high")}, "tolerances: cosine is 'high'"),
        ({"golden": []}, "golden is empty, expected at least one file"),
        ({"golden": ["b.png"]}, "golden: there is no file b.png (looked for in "),
        ({"golden": ["sub"]}, "golden: there is no file sub"),
        ({"golden": [3]}, "golden: there is no file 3"),
        ({"checkpoint": "weights.pt"}, "checkpoint: there is no file weights.pt"),
        ({"extra_files": ["b.txt"]}, "extra_files: there is no file b.txt"),
        ({"extra_files": ["a.png", "sub/a.png"]}, "extra_files have the names ['a.png', 'a.png'], expected no name"),
        ({"handler": "image_clasifier"}, "expected one of image_classifier, named_tensors, "),
        ({"handler": "missing.py:Own"}, "handler: there is no file missing.py"),
        ({"handler": "own.py:Absent"}, "handler 'own.py:Absent' cannot be imported"),
        ({"handler": "own.py:Other"}, "handler 'own.py:Other' is no subclass of handlers.handler.Handler"),
        ({"handler": "broken.py:Broken"}, "handler 'broken.py:Broken' cannot be imported"),
        ({"settings": {}}, "settings: expected labels"),
        ({"settings": {"labels": ["a", "a"]}}, "no label twice, 'a' is"),
        ({"targets": {"tpu": {}}}, "targets: unknown target 'tpu', expected one of cpu"),
        (
            {"targets": {"cpu": {"precision": "int4"}}},
            "targets['cpu']: precision is 'int4', expected one of fp32, bf16",
        ),
        ({"targets": {"cpu": {"optimise": True}}}, "targets['cpu']: unknown option 'optimise'"),
    ],
)
def test_each_fault_has_its_message(faults, changes, fault):
    """What was found, and what was expected, in one sentence of its own."""
    found = faults(**changes)
    assert len(found) == 1, found
    assert fault in found[0]


def test_a_good_recipe_has_no_faults(faults):
    """Neither with the shipped handler nor with one of its own."""
    assert faults() == []
    assert faults(handler="own.py:Own", settings={}, extra_files=["sub/a.png"], checkpoint="a.png") == []


def test_inputs_of_one_name_are_refused(faults):
    """Messages and requests could not tell them apart."""
    (fault,) = faults(inputs=image() * 2, handler="own.py:Own")
    assert "inputs have the names ['image', 'image'], expected no name twice" in fault


def test_all_faults_are_reported_together(faults):
    """One run of the build shows everything that is wrong."""
    found = faults(
        name="a b", inputs=image(dtype="x"), batch_sizes=[], golden=[], handler="nothing", targets={"tpu": {}}
    )
    for word in ("name is", "dtype", "batch_sizes", "golden is empty", "handler 'nothing'", "unknown target"):
        assert sum(word in fault for fault in found) == 1, word


def test_a_recipe_prints_as_something_to_read():
    """Records show their fields."""
    assert "Input(name='image', shape=('batch', 3, 8, 8), dtype='float32', high=2)" in repr(Recipe(**GOOD))


def test_the_batch_dimension_is_filled_in():
    """Each input at one compiled size."""
    assert tensor_specs(GOOD["inputs"], 4) == (TensorSpec("image", "float32", (4, 3, 8, 8)),)


@pytest.mark.parametrize(
    ("handler", "path"),
    [
        ("image_classifier", "handlers.image_classifier:ImageClassifier"),
        ("own.py:Own", "own:Own"),
        ("own:Own", "own:Own"),
    ],
)
def test_a_handler_has_a_path_to_import(handler, path):
    """Shipped ones by convention, one's own from its file."""
    assert handler_path(handler) == path


def test_only_an_own_handler_has_a_file(tmp_path):
    """The shipped ones travel anyway."""
    assert handler_file(Recipe(**GOOD), tmp_path) is None
    assert handler_file(Recipe(**{**GOOD, "handler": "own.py:Own"}), tmp_path) == tmp_path / "own.py"
