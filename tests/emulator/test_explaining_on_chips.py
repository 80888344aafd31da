"""Explanations through modules compiled for chips: the same as the eager network's within the chip's arithmetic."""

import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import neuron
from handlers.errors import NotOffered
from handlers.explaining import explain, explain_payload, read_wish
from handlers.payloads import Payload
from handlers.targets import inf1, inf2
from handlers.worker import Bucket
from tests.explained import PatchFinder, is_hit, make_worker, plant, whole_target
from tests.fakes import save_picture


@pytest.fixture(params=[(inf1, "inf1.xlarge"), (inf2, "inf2.xlarge")], ids=["inf1", "inf2"])
def workers(request, tmp_path, monkeypatch):
    """Two workers with one network: compiled for cpu, and for a chip."""
    target, instance = request.param
    monkeypatch.setenv(neuron.INSTANCE_VARIABLE, instance)
    eager = make_worker(PatchFinder(), 32, tmp_path)
    (bucket,) = eager.buckets
    folder = tmp_path / "chip"
    folder.mkdir()
    chip = make_worker(PatchFinder(), 32, folder)
    runs = {}
    for size in (1, 4):
        module = target.compile(PatchFinder().eval(), [torch.rand(size, 3, 32, 32)], {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(module, folder / f"chip{size}.pt")
        runs[size] = target.load(folder / f"chip{size}.pt", bucket.inputs, {})
    chip.buckets = [Bucket(bucket.inputs, runs)]
    return eager, chip


def occlude(worker, item: bytes) -> np.ndarray:
    sample = worker.preprocess(Payload([item]))[0].sample
    features, target = worker.handler.features(sample, {}), whole_target(worker, worker.handler, sample.inputs)
    return explain(worker, sample, features, target, read_wish("occlusion", {}, sample), deadline=math.inf).values


def test_occlusion_on_a_chip_agrees_with_the_processor(workers):
    """Every cell within the arithmetic's error, and the heaviest in the patch."""
    eager, chip = workers
    pixels, corner = plant(4)
    item = save_picture(Image.fromarray(pixels))
    expected, found = occlude(eager, item), occlude(chip, item)
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert not np.array_equal(found, expected)
    assert is_hit(divmod(int(found.argmax()), 8), corner, 8)


def test_a_chip_has_no_gradients(workers):
    """501, with the methods that it has."""
    item = save_picture(Image.fromarray(plant(4)[0]))
    answer = explain_payload(workers[1], Payload([item], parameters={"method": "integrated_gradients"}))
    assert isinstance(answer, NotOffered)
    assert "occlusion, ablation, shapley, kernel_shap" in str(answer)
