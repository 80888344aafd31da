"""The handler for tables: settings checked, outputs in the target's unit, answers in every form."""

import json
import math

import numpy as np
import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.cores import Lease
from handlers.errors import BadRequest, ModelError
from handlers.tabular_regressor import TabularRegressor
from handlers.worker import Bucket, Worker
from tests.forging import make_record

COLUMNS = [
    {"name": "rooms", "mean": 2, "fill": 5},
    {"name": "age", "optional": True, "fill": 1},
    {"name": "place", "kind": "category", "categories": ["a", "b"], "optional": True},
]
TARGET = {"name": "price", "transform": "exp", "mean": 1, "std": 2, "low": 1, "high": 1000, "decimals": 1}
SPEC = TensorSpec("row", "float32", (1, 5))
ROW = {"rooms": 3, "age": 0.5, "place": "b"}


def make(**target) -> TabularRegressor:
    return TabularRegressor({"columns": COLUMNS, "target": {**TARGET, **target}}, [[SPEC]])


def make_worker(model=lambda rows: (rows.sum(dim=1, keepdim=True),)) -> Worker:
    """A worker whose model gives for each row the sum of its input."""
    record = make_record()
    handler = make(transform="none", mean=0, std=1, low=None, high=None)
    return Worker(record, record.variants[0], handler, [Bucket((SPEC,), {1: model, 4: model})], Lease((), 0, []), [])


def ask(worker: Worker, *bodies: object) -> list:
    """Return the answers to requests that come in one batch."""
    return worker.answer([worker.handler.read({"body": json.dumps(body).encode()}, {}) for body in bodies])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"columns": []}, "expected columns: a list"),
        ({"columns": [{"name": "rooms", "std": -1}]}, "columns[0]: std is -1"),
        ({"target": None}, "settings: target: expected an object with the name of what is predicted"),
        ({"target": {"mean": 0}}, "settings: target: expected an object with the name"),
        ({"target": {"name": "rooms"}}, "'rooms' is one of the columns as well"),
        ({"target": {"name": "p", "transform": "log"}}, "transform is 'log', expected 'none' or 'exp'"),
        ({"target": {"name": "p", "std": 0}}, "std is 0, expected a number over 0"),
        ({"target": {"name": "p", "high": "much"}}, "high is 'much', expected a number"),
        ({"target": {"name": "p", "decimals": 1.5}}, "decimals is 1.5, expected a whole number"),
        ({"target": {"name": "p", "size": 1}}, "unknown 'size'; expected name, unit"),
        ({"labels": ["a"]}, "unknown 'labels'; expected columns, target"),
    ],
)
def test_each_wrong_setting_is_named(changes, fault):
    """A recipe's author reads which setting is wrong and what it should be."""
    faults = TabularRegressor.check_settings({"columns": COLUMNS, "target": TARGET, **changes}, [SPEC])
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize("shapes", [[], [(1, 4)], [(1, 5, 1)], [(1, 5), (1, 5)]], ids=str)
def test_inputs_other_than_the_columns_width_are_refused(shapes):
    """A number, a number and its being missing, two categories: five."""
    specs = [TensorSpec("x", "float32", shape) for shape in shapes]
    (fault,) = TabularRegressor.check_settings({"columns": COLUMNS, "target": TARGET}, specs)
    assert "expected one of shape ('batch', 5)" in fault


def test_a_column_named_like_a_key_of_requests_is_refused():
    """It could not be told from the request's own key."""
    columns = [{"name": "instances"}]
    (fault,) = TabularRegressor.check_settings(
        {"columns": columns, "target": TARGET}, [TensorSpec("x", "float32", (1, 1))]
    )
    assert "'instances' has a meaning of its own" in fault


def test_good_settings_have_no_faults():
    """Nor have those that name only what they must."""
    assert TabularRegressor.check_settings({"columns": COLUMNS, "target": TARGET}, [SPEC]) == []
    assert TabularRegressor.check_settings({"columns": COLUMNS, "target": {"name": "p"}}, [SPEC]) == []


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_outputs_of_one_number_for_each_row_pass(shape):
    """With or without a dimension of one."""
    assert make().check_outputs((torch.zeros(shape),)) == []


@pytest.mark.parametrize("outputs", [(torch.zeros(3, 2),), (torch.zeros(3, 1), torch.zeros(3, 1))], ids=len)
def test_other_outputs_are_noticed_at_the_build(outputs):
    """Two numbers are no regression of one target."""
    (fault,) = make().check_outputs(outputs)
    assert "expected one: (batch,) or (batch, 1)" in fault


def test_outputs_come_in_the_targets_unit_and_within_its_limits():
    """exp(mean + std * output), in float64, for a batch of any dtype."""
    (values,) = make().activate((torch.tensor([[0.5], [-3.0], [50.0]]).bfloat16(),))
    assert values.dtype == torch.float64
    assert values.tolist() == [pytest.approx(math.exp(2)), 1.0, 1000.0]


def test_an_answer_has_as_many_decimals_as_the_recipe_says():
    """All of them where it says nothing."""
    value = torch.tensor(12.3456, dtype=torch.float64)
    assert make().postprocess((value,)) == {"price": 12.3}
    assert make(decimals=None).postprocess((value,)) == {"price": 12.3456}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_answer_that_is_not_finite_is_refused(value):
    """NaN gets through limits, and infinity where there are none."""
    handler = make(transform="none", low=None, high=None)
    with pytest.raises(ModelError, match="price that is not a finite number"):
        handler.postprocess(tuple(out[0] for out in handler.activate((torch.tensor([[value]]),))))


def test_every_position_of_the_input_has_its_column():
    """For explanations: a column's positions are left out together."""
    assert make().columns_by_position() == ("rooms", "age", "age", "place", "place")


def test_left_out_columns_are_missing_or_at_their_usual_value():
    """An optional one as a request without it, any other at its fill."""
    handler = make()
    assert handler.baseline().tolist() == [3, 1, 1, 0, 0]
    (missing,) = handler.preprocess((5, None, None))
    assert np.array_equal(missing, handler.baseline())


def test_requests_of_all_forms_share_a_batch():
    """Each answer has its request's form: an object, a list, predictions, a tensor."""
    split = {"columns": ["rooms"], "data": [[3], [4]]}
    v2 = {"inputs": [{"name": "rooms", "datatype": "FP64", "shape": [2], "data": [3, 4]}], "id": "7"}
    one, rows, many, tensors = ask(make_worker(), ROW, split, {"instances": [ROW]}, v2)
    assert one == {"price": 2.5}
    assert rows == [{"price": 3.0}, {"price": 4.0}]
    assert many == {"predictions": [{"price": 2.5}]}
    assert tensors["outputs"] == [{"name": "price", "datatype": "FP64", "shape": [2], "data": [3.0, 4.0]}]
    assert tensors["id"] == "7"


def test_a_request_is_refused_as_a_whole_and_its_neighbours_are_not():
    """A client wants all rows or none; another client does not care."""
    worker = make_worker()
    with pytest.raises(BadRequest, match="row 2, field 'rooms'"):
        ask(worker, [ROW, {"rooms": "x"}, ROW])
    assert ask(worker, ROW) == [{"price": 2.5}]


def test_a_row_that_the_model_gives_nan_for_fails_alone():
    """Its request gets a 500, others their answers."""
    nan, good = ask(
        make_worker(lambda rows: (torch.where(rows[:, :1] > 50, torch.nan, rows[:, :1]),)), {"rooms": 99}, ROW
    )
    assert isinstance(nan, ModelError)
    assert good == {"price": 1.0}


def test_predictions_are_given_as_an_array():
    """For npy: one number for each row."""
    assert make().as_array((torch.tensor(12.34, dtype=torch.float64),), None) == np.array(12.3)
