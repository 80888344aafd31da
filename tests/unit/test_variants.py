"""Variants for chips, built on the emulator: what is worked out, compiled, verified, certified, and refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers import integrity
from handlers.artifact import Record, Variant
from handlers.neuron import INSTANCE_VARIABLE
from tests.recipes import write_recipe
from tracing.building import is_up_to_date, trace
from tracing.errors import CompileError, PreflightError, VerificationError
from tracing.estimating import resolve_options
from tracing.loading import load_recipe

ROOT = Path(__file__).resolve().parents[2]
EMBEDDING = """
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, image):
            pooled = image.mean((2, 3))
            return self.layer(pooled) + torch.special.i0(pooled)

    return Model()
"""
WIDE = "Input(name='image', shape=('batch', 3, 8, 'width'))"
WIDE_MODEL = """
    return torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
"""


@pytest.fixture(autouse=True)
def _emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What EMULATE=1 sets up: the emulator's folder on the path, and an instance."""
    monkeypatch.setenv(INSTANCE_VARIABLE, "inf1.xlarge")
    monkeypatch.syspath_prepend(str(ROOT / "emulator"))
    monkeypatch.setenv("PATH", f"{ROOT / 'emulator' / 'bin'}:/usr/bin:/bin")
    yield


def build(folder: Path, *, target: str = "inf1", notes: list[str] | None = None, **changes: Any) -> Record:
    """Trace a small recipe for chips."""
    recipe = write_recipe(folder / "recipe", **changes)
    notes = notes if notes is not None else []
    return trace(str(recipe), target_names=target.split(","), folder=folder / "artifact", progress=notes.append)


def build_variant(folder: Path, options: str = "{}", target: str = "inf1", more: str = "", **changes: Any) -> Variant:
    """Return the only variant of a small recipe with options for its target."""
    return build(folder, target=target, more=f"targets={{{target!r}: {options}}}, {more}", **changes).variants[0]


@pytest.mark.parametrize(("target", "instance"), [("inf1", "inf1.xlarge"), ("inf2", "inf2.xlarge")])
def test_an_emulated_variant_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, instance: str
) -> None:
    """In the record: compiled by the emulator, verified on it, and by what arithmetic."""
    monkeypatch.setenv(INSTANCE_VARIABLE, instance)
    variant = build_variant(tmp_path, target=target)
    assert (variant.target, variant.emulated, variant.verified_on) == (target, True, "emulator")
    assert variant.certificate["arithmetic"]["matmul"] == "bf16"
    assert "+emulator" in " ".join(variant.versions.values())
    assert 0 < variant.verification["max_abs_error"] < 0.05


def test_two_targets_share_one_archive(tmp_path: Path) -> None:
    """In the order of preference; the processor's variant keeps the narrow tolerances."""
    record = build(tmp_path, target="inf1,cpu")
    assert [(each.target, each.emulated) for each in record.variants] == [("inf1", True), ("cpu", False)]
    assert [each.golden_tolerance for each in record.variants] == [0.05, 0.01]


def test_the_record_is_json(tmp_path: Path) -> None:
    """Certificate included; the figures are the same on every build."""
    build(tmp_path)
    first = (tmp_path / "artifact" / integrity.RECORD_NAME).read_bytes()
    build(tmp_path)
    assert json.loads(first)["variants"][0]["certificate"]["worst_layers"]
    assert (tmp_path / "artifact" / integrity.RECORD_NAME).read_bytes() == first


def test_what_is_unchanged_is_not_compiled_again(tmp_path: Path) -> None:
    """Compiled files are kept, by the model, the options and the versions."""
    build_variant(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".compiled").iterdir()}
    build_variant(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".compiled").iterdir()} == kept
    build_variant(tmp_path, '{"cast": "matmult"}')
    assert len(list((tmp_path / ".compiled").iterdir())) == 2 * len(kept)


def test_an_archive_of_the_emulator_is_out_of_date_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command with the real SDK must compile anew."""
    record, model = build(tmp_path), str(tmp_path / "recipe" / "recipe.py")
    assert is_up_to_date(record, model, ["inf1"])
    monkeypatch.delenv(INSTANCE_VARIABLE)
    assert not is_up_to_date(record, model, ["inf1"])


def test_one_dynamic_module_serves_all_batch_sizes(tmp_path: Path) -> None:
    """The framework slices and pads: compiled at the smallest size."""
    variant = build_variant(tmp_path, '{"dynamic_batch": True}')
    assert [module.batch for module in variant.modules] == [1, 2]
    assert len({module.file for module in variant.modules}) == 1


def test_a_worker_of_two_cores_runs_data_parallel(tmp_path: Path) -> None:
    """Each copy has half of a batch that splits; verified on both cores."""
    variant = build_variant(tmp_path, '{"cores_per_worker": 2}')
    assert (variant.cores_per_worker, variant.options["data_parallel"]) == (2, 2)
    # A batch of one does not split, and a batch of two gives one to each copy: the same module.
    assert len({module.file for module in variant.modules}) == 1


def test_a_pipeline_larger_than_the_instance_is_refused(tmp_path: Path) -> None:
    """Before anything is compiled, with the arithmetic."""
    with pytest.raises(PreflightError, match="takes 8 cores, this host has 4"):
        build_variant(tmp_path, '{"pipeline_cores": 8}')


def test_a_pipeline_takes_its_cores(tmp_path: Path) -> None:
    """Named to the compiler, and leased by the worker."""
    variant = build_variant(tmp_path, '{"pipeline_cores": 4}')
    assert (variant.cores_per_worker, variant.options["data_parallel"]) == (4, 1)


@pytest.mark.parametrize(("target", "instance"), [("inf1", "inf1.xlarge"), ("inf2", "inf2.xlarge")])
def test_separate_weights_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, instance: str
) -> None:
    """For models over the limit of a compiled file."""
    monkeypatch.setenv(INSTANCE_VARIABLE, instance)
    variant = build_variant(tmp_path, '{"separate_weights": True}', target=target)
    assert variant.verification["min_cosine"] > 0.999


def test_buckets_are_compiled_at_every_batch_size(tmp_path: Path) -> None:
    """Smallest first; the golden pictures, eight wide, run in the bucket that holds them."""
    handler = tmp_path / "recipe" / "rows.py"
    handler.parent.mkdir()
    handler.write_text(ROWS)
    changes = {
        "model": WIDE_MODEL,
        "inputs": WIDE,
        "handler": "rows.py:Rows",
        "more": 'buckets=[{"width": 16}, {"width": 8}]',
    }
    variant = build(tmp_path, settings={}, **changes).variants[0]
    assert [(module.bucket["width"], module.batch) for module in variant.modules] == [(8, 1), (8, 2), (16, 1), (16, 2)]


ROWS = """
import io

import numpy as np
from PIL import Image

from handlers.handler import Handler


class Rows(Handler):
    def preprocess(self, item):
        return (np.asarray(Image.open(io.BytesIO(item)).convert("RGB"), np.float32).transpose(2, 0, 1)[:, :8] / 255,)

    def postprocess(self, outputs):
        return [round(float(each), 4) for each in outputs[0]]
"""


def test_operators_left_to_the_processor_beyond_the_limit_stop_the_build(tmp_path: Path) -> None:
    """The message names them, and their lines in the recipe."""
    with pytest.raises(CompileError, match=r"stay on the processor, at most 10.0% may .*aten::i0 at recipe.py\("):
        build_variant(tmp_path, model=EMBEDDING)


def test_the_limit_is_the_recipes(tmp_path: Path) -> None:
    """What stays is in the record."""
    variant = build_variant(tmp_path, '{"max_cpu_share": 0.5}', model=EMBEDDING)
    assert 0 < variant.cpu_share <= 0.5


LOSES = """
    class Sharp(torch.nn.Module):
        def forward(self, x):
            return torch.softmax(x * 3000, 1)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = torch.nn.AdaptiveAvgPool2d(1)
            self.sharp = Sharp()

        def forward(self, image):
            return self.sharp(1 + 0.001 * self.pool(image).flatten(1))

    return Model()
"""


def test_a_model_that_loses_its_accuracy_stops_the_build(tmp_path: Path) -> None:
    """bf16 cannot tell 1.001 from 1: the certificate says so, and where, before anything is compiled."""
    with pytest.raises(VerificationError, match=r"loses its accuracy in .* arithmetic .*Worst layers"):
        build_variant(tmp_path, model=LOSES, settings={"labels": ["a", "b", "c"], "activation": "none"})
    assert not (tmp_path / "artifact").exists()


def test_a_recipe_for_a_real_chip_is_refused_without_its_framework(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the SDK nor the emulator is there."""
    import sys

    monkeypatch.setattr(sys, "path", [each for each in sys.path if not each.endswith("emulator")])
    monkeypatch.setattr(
        sys, "modules", {name: m for name, m in sys.modules.items() if not name.startswith("torch_neuron")}
    )
    with pytest.raises(Exception, match="torch_neuron cannot be imported"):
        build_variant(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{}", {"data_parallel": 1}),
        ('{"pipeline_cores": "auto"}', {"pipeline_cores": 1, "data_parallel": 1}),
        ('{"cores_per_worker": 4}', {"cores_per_worker": 4, "data_parallel": 4}),
    ],
)
def test_options_are_worked_out(tmp_path: Path, options: str, expected: dict) -> None:
    """What depends on the model stands in the record as a number."""
    import torch

    loaded = load_recipe(str(write_recipe(tmp_path, more=f"targets={{'inf1': {options}}}")))
    assert resolve_options("inf1", loaded.recipe, torch.nn.Linear(3, 3)) == expected


SDK = """
import torch

__version__ = "2.9.0"


def analyze(func, example_inputs, **options):
    return {"support_percentage": "100.00%", "unsupported_operators": []}


def trace(func, example_inputs, **options):
    assert options["cpu_backend"] and "--target" in options["compiler_args"]
    return torch.jit.trace(func, example_inputs)
"""


def test_a_build_with_the_sdk_and_without_a_chip_says_what_it_was_verified_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A framework that is not the emulator: compiled for the chip, judged by emulated arithmetic, and so recorded."""
    import sys

    monkeypatch.delenv(INSTANCE_VARIABLE)
    for name in [each for each in sys.modules if each.partition(".")[0] == "torch_neuronx"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "sdk" / "torch_neuronx").mkdir(parents=True)
    (tmp_path / "sdk" / "torch_neuronx" / "__init__.py").write_text(SDK)
    monkeypatch.syspath_prepend(str(tmp_path / "sdk"))
    compiler = tmp_path / "sdk" / "neuronx-cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'sdk'}:/usr/bin:/bin")
    notes: list[str] = []
    more = "targets={'inf2': {'max_cpu_share': 1.0}}"
    (variant,) = build(tmp_path, target="inf2", notes=notes, more=more).variants
    monkeypatch.delitem(sys.modules, "torch_neuronx")
    assert (variant.emulated, variant.verified_on) == (False, "emulator")
    assert variant.verification["max_abs_error"] == variant.certificate["figures"]["max_abs_error"]
    assert any("no chip here to run the compiled modules on" in note for note in notes)


CANCELS = """
    class End(torch.nn.Module):
        def forward(self, x):
            return x * 1001 - x * 1000

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
            self.layer = torch.nn.Linear(3, 3)
            self.end = End()

        def forward(self, image):
            return self.end(self.layer(self.pool(image)))

    return Model()
"""


@pytest.mark.parametrize(("target", "instance"), [("inf1", "inf1.xlarge"), ("inf2", "inf2.xlarge")])
def test_a_sensitive_end_kept_out_of_the_graph_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, instance: str
) -> None:
    """One line in the recipe: the same model fails without it, and its end then runs on the processor."""
    monkeypatch.setenv(INSTANCE_VARIABLE, instance)
    with pytest.raises(VerificationError, match=r"loses its accuracy .* keep_on_cpu=\('end',\)"):
        build_variant(tmp_path, '{"cast": "all"}', target=target, model=CANCELS)
    variant = build_variant(tmp_path, '{"cast": "all"}', target=target, model=CANCELS, more="keep_on_cpu=['end']")
    assert variant.certificate["kept_on_cpu"] == ["end"]
    assert variant.verification["max_abs_error"] < 0.05
