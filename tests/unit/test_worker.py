"""A worker: batches in, answers out in order, a fault of one request its own; and what keeps it from starting."""

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import artifact, cores
from handlers.comparing import find_difference
from handlers.cores import Lease
from handlers.errors import (
    BadRequest,
    BrokenArchive,
    GoldenMismatch,
    KitError,
    ModelError,
    ModelUnusable,
    NoTarget,
    TooLarge,
)
from handlers.handler import Handler, Sample
from handlers.payloads import INSTANCES, LIST, PLAIN, TENSORS, Payload
from handlers.starting import choose_variant, ensure_requirements, make_handler, start_worker
from handlers.worker import Bucket, Worker
from tests.fakes import Echo, make_picture, run_model
from tests.forging import make_record, reseal


def make_worker(sizes=(1, 4)) -> Worker:
    record = make_record()
    inputs = (artifact.TensorSpec("x", "float32", (1, 1)),)
    bucket = Bucket(inputs, dict.fromkeys(sizes, run_model))
    return Worker(record, record.variants[0], Echo({}, [inputs]), [bucket], Lease((), 0, []), [])


def plain(*numbers):
    return [Payload([number], PLAIN) for number in numbers]


BAD = {101: BadRequest, 99: ModelError, 98: ModelError, 97: ModelError, 96: ModelError}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_bad_request_fails_alone(bad, place):
    """Its neighbours get their right answers in their order, wherever it stands."""
    numbers = [1, 2, 3, 4, 5]
    numbers.insert(place, bad)
    answers = make_worker().answer(plain(*numbers))
    assert type(answers[place]) is BAD[bad]
    assert [answer for n, answer in enumerate(answers) if n != place] == [1, 2, 3, 4, 5]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20) | st.sampled_from(sorted(BAD)), min_size=1, max_size=6), max_size=9))
def test_every_payload_gets_its_own_answer(requests):
    """As many answers as payloads, each right or an error, for any mixture."""
    answers = make_worker().answer([Payload(items, INSTANCES) for items in requests])
    assert len(answers) == len(requests)
    for items, answer in zip(requests, answers, strict=True):
        if set(items) & set(BAD):
            assert isinstance(answer, KitError)
        else:
            assert answer == {"predictions": items}


def test_an_error_in_several_items_says_which():
    """A client that sent ten pictures learns which one to replace."""
    (answer,) = make_worker().answer([Payload([1, 2, 101], INSTANCES)])
    assert str(answer) == "item 2: 101 is over 100"


def test_a_tensor_request_gets_a_tensor_response():
    """KServe v2: name, version, outputs and the identifier that came with the request."""
    with_id, without = make_worker().answer([Payload([1], TENSORS, "42"), Payload([1], TENSORS)])
    outputs = [{"name": "answer", "datatype": "BYTES", "shape": [1], "data": ["1.0"]}]
    assert with_id == {"model_name": "tiny", "model_version": "1.0", "outputs": outputs, "id": "42"}
    assert "id" not in without


def test_no_payloads_give_no_answers():
    """A batch whose requests are all refused runs nothing."""
    assert make_worker().answer([]) == []


def test_a_worker_of_the_tiny_archive_is_ready(tiny_folder):
    """The whole start: lease, load, warm up, replay; then a right answer, and the time of each step."""
    worker = start_worker(tiny_folder)
    (answer,) = worker.answer([Payload([make_picture("green")], PLAIN)])
    assert next(iter(answer)) == "green"
    assert worker.lease.cores == (cores.host_cpus()[0],)
    assert set(worker.seconds) == {"prepare", "load", "warm_up", "golden"}
    worker.lease.release()


def test_a_worker_runs_on_its_core_only(tiny_folder):
    """With as many threads as cores, so that two workers never fight over one."""
    worker = start_worker(tiny_folder)
    assert cores.host_cpus() == list(worker.lease.cores)
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    worker.lease.release()


def overwrite(folder, content):
    for module in {m.file for m in artifact.read_record(folder).variants[0].modules}:
        (folder / module).write_bytes(content)


def script(source_folder, forward):
    """Put another scripted module in place of the archive's."""
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(forward, torch.ones(1, 3, 8, 8), check_trace=False), source_folder / "x.pt")
    overwrite(source_folder, (source_folder / "x.pt").read_bytes())
    (source_folder / "x.pt").unlink()


class OtherAnswer(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)).flip(1) * 10


class Fails(torch.nn.Module):
    def forward(self, x):
        return x.reshape(1, 192)[:, :3]


class NoBatch(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(0, 2, 3))


class Poisoned(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)) * float("nan")


def garbage(folder):
    overwrite(folder, b"garbage")


def set_in(*path, value):
    def change(record):
        for step in path[:-1]:
            record = record[step]
        record[path[-1]] = value

    return lambda folder: reseal(folder, change)


def grow_shape(folder):
    def change(record):
        for module in record["variants"][0]["modules"]:
            module["inputs"][0]["shape"][1] = 4

    reseal(folder, change)


START_FAULTS = {
    "garbage for a module": (garbage, ModelUnusable, "does not load as TorchScript"),
    "module missing": (lambda f: shutil.rmtree(f / "modules"), ModelUnusable, "does not load as TorchScript"),
    "another model": (
        lambda f: script(f, OtherAnswer()),
        GoldenMismatch,
        "golden request tiny_red.png in a batch of 1",
    ),
    "poisoned weights": (lambda f: script(f, Poisoned()), GoldenMismatch, "was refused: the model gave a probability"),
    "fails at batch 4": (lambda f: script(f, Fails()), ModelUnusable, "does not run at its compiled shape"),
    "no batch dimension": (lambda f: script(f, NoBatch()), ModelUnusable, "expected the batch as first dimension"),
    "no handler module": (set_in("handler", "path", value="absent:X"), ModelUnusable, "absent:X cannot be made"),
    "no handler class": (set_in("handler", "path", value="handlers.images:X"), ModelUnusable, "cannot be made"),
    "settings unknown": (set_in("handler", "settings", value={}), ModelUnusable, "cannot be made: KeyError"),
    "unknown target": (set_in("variants", 0, "target", value="tpu"), NoTarget, "unknown target 'tpu'"),
    "emulated cpu": (set_in("variants", 0, "emulated", value=True), NoTarget, "never emulated"),
    "wrong format": (set_in("format", value=99), BrokenArchive, "has format 99, this kit reads format 1"),
    "no variants": (set_in("variants", value=[]), BrokenArchive, "has no variants"),
    "wrong dtype": (
        set_in("variants", 0, "modules", 0, "inputs", 0, "dtype", value="float33"),
        ModelUnusable,
        "float33",
    ),
    "wrong golden answer": (
        set_in("golden", 0, "answer", value={"red": 0.1, "green": 0.8, "blue": 0.1}),
        GoldenMismatch,
        "answer['blue'] is 0.00124225, expected 0.1 within 0.01",
    ),
    "golden file missing": (lambda f: shutil.rmtree(f / "golden"), GoldenMismatch, "tiny_red.png cannot be read"),
    "golden file of another kind": (
        set_in("golden", 0, "file", value="model-config.yaml"),
        GoldenMismatch,
        "was refused: the ",
    ),
    "empty golden file": (lambda f: (f / "golden" / "0-tiny_red.png").write_bytes(b""), GoldenMismatch, "empty body"),
    "no modules": (set_in("variants", 0, "modules", value=[]), BrokenArchive, "has a variant without modules"),
}


@pytest.mark.parametrize("fault", START_FAULTS)
def test_what_keeps_a_worker_from_starting_is_named(tiny_folder, fault, leases):
    """Each fault has its kind and message, and the core is given back."""
    spoil, kind, message = START_FAULTS[fault]
    spoil(tiny_folder)
    with pytest.raises(kind) as caught:
        start_worker(tiny_folder)
    assert message in str(caught.value)
    assert cores.lease_holders(leases) == []


def test_a_shape_that_the_module_does_not_check_is_still_run(tiny_folder):
    """The tiny model takes any number of channels up to its linear layer, which refuses four."""
    grow_shape(tiny_folder)
    with pytest.raises(ModelUnusable, match=r"image float32 \[1, 4, 8, 8\]"):
        start_worker(tiny_folder)


def test_a_variant_that_cannot_run_is_passed_over():
    """The first that can run is taken, and the reasons of those before it are kept."""
    good = make_record().variants[0]
    emulated = dataclasses.replace(good, emulated=True)
    variant, reasons = choose_variant(make_record(variants=(emulated, good)))
    assert variant is good
    assert reasons == ["cpu: a cpu variant is never emulated; the record is wrong"]


def test_the_handler_is_made_with_its_settings():
    """From the record's path, with the settings and the inputs of the smallest module."""
    record = make_record()
    handler = make_handler(record, record.variants[0], Path())
    assert handler.settings == {"labels": ["red", "green", "blue"]}
    assert handler.inputs[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (1.0, 1.01, True),
        (1.0, 1.02, False),
        (1.0, float("nan"), False),
        (1, True, False),
        (None, None, True),
        (None, 0, False),
        ("a", "a", True),
        ("a", "b", False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1], False),
        ([1, [2]], [1, [3]], False),
        ({"a": 0.9, "b": 0.1}, {"b": 0.1, "a": 0.9}, True),
        ({"a": 0.9, "b": 0.1}, {"a": 0.9, "c": 0.1}, True),
        ({"a": 0.9, "b": 0.1}, {"c": 0.9, "b": 0.1}, False),
        ({"a": 0.9, "b": 0.1}, {"a": 0.9, "b": 0.2}, False),
        ({"a": 0.9}, {"b": 0.9}, False),
        ({"a": 0.9}, {}, False),
        ({"a": "x"}, {}, False),
        ({}, {"a": 0.5}, False),
        ({}, {}, True),
        ({"a": 1}, [1], False),
        ({"a": {"b": [1.0]}}, {"a": {"b": [1.5]}}, False),
    ],
)
def test_golden_answers_are_compared_with_tolerance(expected, found, same):
    """Numbers may be apart by the tolerance and the end of a ranking may trade places; nothing else may differ."""
    assert (find_difference(expected, json.loads(json.dumps(found)), 0.0101) == "") is same


def test_a_difference_says_where():
    """The message leads to the place in the answer."""
    assert find_difference({"a": [1.0, 2.0]}, {"a": [1.0, 3.0]}, 0.5) == "answer['a'][1] is 3, expected 2 within 0.5"


class Lengths(Handler):
    """Takes lists of ones; answers their sum, and how long the compiled input was."""

    def preprocess(self, item):
        return (torch.ones(item),)

    def postprocess(self, outputs):
        return [float(outputs[0]), float(outputs[1])]


def measure_rows(batch):
    """The sum and the length of each row."""
    return batch.sum(1), torch.full((len(batch),), batch.shape[1])


def make_bucket_worker() -> Worker:
    """A worker with inputs of four and of eight."""
    specs = [(artifact.TensorSpec("x", "float32", (1, size)),) for size in (4, 8)]
    modules = tuple(artifact.Module(1, "", spec, {"length": spec[0].shape[1]}) for spec in specs)
    variant = dataclasses.replace(make_record().variants[0], modules=modules)
    buckets = [Bucket(spec, dict.fromkeys((1, 2), measure_rows)) for spec in specs]
    return Worker(make_record(), variant, Lengths({}, specs), buckets, Lease((), 0, []), [])


def test_items_run_in_the_smallest_bucket_that_holds_them():
    """Grouped by bucket within a batch, answered in their order, padding without effect on the sum."""
    answers = make_bucket_worker().answer(plain(3, 8, 1, 5, 4))
    assert answers == [[3, 4], [8, 8], [1, 4], [5, 8], [4, 4]]


def test_an_item_larger_than_every_bucket_fails_alone():
    """The message says what was found and what the largest bucket holds."""
    first, second = make_bucket_worker().answer(plain(9, 2))
    assert isinstance(first, TooLarge)
    assert "found x [9], the largest holds {'length': 8}" in str(first)
    assert second == [2, 4]


def test_padding_is_counted():
    """Of an item to its bucket, and of a batch to its compiled size."""
    worker = make_bucket_worker()
    worker.answer(plain(3))
    assert (worker.waste.computed, worker.waste.padded) == (4, 1)
    worker.answer(plain(8, 1, 5, 7))  # 8 and 5 together, 7 alone, in the bucket of eight; 1 in that of four
    assert (worker.waste.computed, worker.waste.padded) == (4 + 16 + 8 + 4, 1 + 3 + 1 + 3)
    worker.buckets[0] = Bucket(worker.buckets[0].inputs, {2: measure_rows})
    worker.answer(plain(4))  # in a batch of two, which repeats it
    assert (worker.waste.computed, worker.waste.padded) == (32 + 8, 8 + 4)
    assert worker.waste.share == pytest.approx(12 / 40)


def ask(worker, *items, form=PLAIN, accept="application/json", **parameters):
    """Return the answer to one payload."""
    (answer,) = worker.answer([Payload(list(items), form, None, parameters, accept)])
    return answer


def test_the_raw_form_gives_the_models_own_outputs():
    """By the names that the record has for them, before any handler's work."""
    worker = make_bucket_worker()
    worker.variant = dataclasses.replace(worker.variant, outputs=("sum", "length"))
    assert ask(worker, 3, form=LIST) == [[3, 4]]
    payload = Payload([3, 5], LIST, None, {"form": "raw"})
    assert worker.answer([payload]) == [[{"sum": 3.0, "length": 4}, {"sum": 5.0, "length": 8}]]


def test_an_unknown_form_is_refused():
    """The message names those there are."""
    (answer,) = make_worker().answer([Payload([1], PLAIN, None, {"form": "poem"})])
    assert str(answer) == "the form is 'poem', expected one of answer, raw"


def test_npy_holds_an_array_for_each_item():
    """The items first, also for one; several outputs of raw do not fit into one array."""
    answer = ask(make_worker(), 1, 2, form=INSTANCES, accept="application/x-npy")
    assert np.load(io.BytesIO(answer.body)).tolist() == [[1], [2]]
    payload = Payload([3], PLAIN, None, {"form": "raw"}, "application/x-npy")
    (refused,) = make_bucket_worker().answer([payload])
    assert str(refused) == "the model has 2 raw outputs, npy holds one array; accept application/json"


class Noted(Lengths):
    """Cuts lists at eight and says so; answers each place's number, which the worker crops to the item's own length."""

    parameters = ("form", "times")

    def preprocess(self, item):
        return Sample((torch.arange(min(item, 8)).float(),), note={"cut": item > 8})

    def answer(self, outputs, note, parameters):
        return {"places": (outputs[0] * float(parameters.get("times", 1))).tolist(), **note}


def test_outputs_are_cropped_and_notes_and_parameters_arrive():
    """What ``preprocess`` noted of an item, and what its client asked for, reach its own answer in a mixed batch."""
    worker = make_bucket_worker()
    worker.handler = Noted({}, worker.handler.buckets)
    worker.variant = dataclasses.replace(worker.variant, crops=(artifact.Crop(0, 0, 0, 0, 1, 1),))
    worker.buckets = [Bucket(each.inputs, dict.fromkeys((1, 2), lambda batch: (batch,))) for each in worker.buckets]
    payloads = [Payload([2]), Payload([9]), Payload([5], PLAIN, None, {"times": "2"})]
    assert worker.answer(payloads) == [
        {"places": [0, 1], "cut": False},
        {"places": [0, 1, 2, 3, 4, 5, 6, 7], "cut": True},
        {"places": [0, 2, 4, 6, 8], "cut": False},
    ]


def test_copies_of_a_sample_run_in_compiled_batches():
    """Explanations ask for many variations at once; padding and cropping are as for answers."""
    found = make_bucket_worker().run_copies([(torch.ones(3),), (torch.zeros(3),), (torch.ones(2),)])
    assert [each.tolist() for each in found] == [[3, 0, 2], [4, 4, 4]]


def test_packages_that_are_missing_are_named():
    """The worker says what to install, and where, before it tries."""
    record = dataclasses.replace(make_record(), requirements=("numpy==1.0", "no-such-package==3.1"))
    with pytest.raises(ModelUnusable, match=r"needs no-such-package==3.1, which .* -m pip install 'no-such-package"):
        ensure_requirements(record)
