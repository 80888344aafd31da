"""Explanations of requests: planted causes found through compiled modules, every item, forms, parameters, refusals."""

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import artifact
from handlers.artifact import Crop
from handlers.attributions import FORWARD_METHODS, METHODS
from handlers.cores import Lease
from handlers.errors import BadRequest, ModelError, NotOffered, UnsupportedType
from handlers.explaining import explain, explain_payload, make_seed, read_wish
from handlers.handler import Handler
from handlers.payloads import INSTANCES, LIST, TENSORS, Encoded, Payload
from handlers.service import Service
from handlers.tabular_regressor import TabularRegressor
from handlers.worker import Bucket, Worker
from tests.explained import PatchFinder, Residual, is_hit, make_worker, plant, whole_target
from tests.fakes import Echo, make_context, save_picture
from tests.forging import make_record


@pytest.fixture(autouse=True)
def _one_thread():
    """As a worker on one core has; several threads for pictures this small only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    """A worker whose model finds bright patches in pictures of 32 x 32."""
    return make_worker(PatchFinder(), 32, tmp_path_factory.mktemp("finder"))


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A worker with a small residual network of 16 x 16, normalising as usual."""
    torch.manual_seed(0)
    normal = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    return make_worker(Residual(), 16, tmp_path_factory.mktemp("residual"), **normal)


def picture(seed: int, side: int = 32) -> bytes:
    return save_picture(Image.fromarray(plant(seed, side)[0]))


def ask(worker, *items, accept="application/json", form="plain", **parameters):
    """Return the answer to a request, without the time that it took."""
    answer = explain_payload(worker, Payload(list(items), form, parameters=parameters, accept=accept))
    for each in answer if isinstance(answer, list) else [answer]:
        if isinstance(each, dict):
            each.pop("seconds", None)
    return answer


@pytest.mark.parametrize(
    ("method", "options"), [("occlusion", {}), ("ablation", {"grid": 4}), ("kernel_shap", {"grid": 4, "n_samples": 60})]
)
def test_a_planted_patch_is_found(finder, method, options):
    """The pointing game: in 95 of 100 pictures and more, the heaviest cell lies in the patch."""
    hits = 0
    count = 100 if method == "occlusion" else 20
    for seed in range(count):
        pixels, corner = plant(seed, size=16 if options else 8)
        answer = ask(finder, save_picture(Image.fromarray(pixels)), method=method, target="patch", **options)
        grid = np.array(answer["grid"])
        cell = np.unravel_index(grid.argmax(), grid.shape)
        hits += is_hit(cell, corner, len(grid), size=16 if options else 8)
    assert hits >= 0.95 * count


def test_occlusion_on_the_compiled_module_agrees_with_the_eager_one(tmp_path):
    """The same numbers from the network itself, run on one picture at a time."""
    torch.manual_seed(1)
    model = Residual().eval()
    worker = make_worker(model, 16, tmp_path, activation="none")
    sample = worker.preprocess(Payload([picture(3, 16)]))[0].sample
    features, target = worker.handler.features(sample, {}), whole_target(worker, worker.handler, sample.inputs)
    wish = read_wish("occlusion", {}, sample)
    compiled = explain(worker, sample, features, target, wish, deadline=math.inf)

    @dataclasses.dataclass
    class Eager:
        batch_sizes = (1,)

        @staticmethod
        def run_copies(copies):
            with torch.no_grad():
                return (torch.cat([model(*worker.handler.collate([copy])) for copy in copies]),)

    eager = explain(Eager(), sample, features, target, wish, deadline=math.inf)
    assert np.abs(eager.values).max() > 1e-3
    np.testing.assert_allclose(compiled.values, eager.values, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_items_together_are_explained_as_alone(residual, method):
    """Every item of a request, in order, and the same whatever is beside it."""
    items = [picture(seed, 16) for seed in (1, 2, 3)]
    options = {"method": method, "grid": 4, "n_samples": 30, "budget_s": 30}
    together = ask(residual, *items, form=LIST, **options)
    alone = [ask(residual, item, **options) for item in items]
    assert together == alone
    assert len({json.dumps(each) for each in alone}) == 3


@pytest.mark.parametrize(("form", "key"), [(INSTANCES, "explanations"), (TENSORS, "outputs")])
def test_an_answer_has_the_form_of_its_request(residual, form, key):
    """KServe v1 and v2; one JSON text for each item in the latter."""
    answer = ask(residual, picture(1, 16), picture(2, 16), form=form, method="ablation", grid=2)
    assert len(answer[key]) == (2 if form == INSTANCES else 1)
    if form == TENSORS:
        assert answer["outputs"][0]["shape"] == [2]
        assert json.loads(answer["outputs"][0]["data"][1])["method"] == "ablation"


def test_an_answer_says_what_it_is(residual):
    """Target, method, both scores, cost and whether all was computed; the grid in rows."""
    answer = ask(residual, picture(1, 16), method="shapley", n_samples="2", grid="3", target="1")
    assert (answer["target"], answer["method"], answer["complete"]) == ("patch", "shapley", True)
    assert np.shape(answer["grid"]) == np.shape(answer["errors"]) == (3, 3)
    assert np.sum(answer["grid"]) == pytest.approx(answer["score"] - answer["baseline_score"], abs=1e-5)
    assert 2 < answer["evaluations"] <= 2 + 2 * 8
    assert ask(residual, picture(1, 16), method="occlusion")["errors"] is None


def test_the_target_is_the_top_label_unless_said(finder):
    """And another target's weights are the other way round where there are two."""
    own, other = ask(finder, picture(1)), ask(finder, picture(1), target="none")
    assert (own["target"], other["target"]) == ("patch", "none")
    np.testing.assert_allclose(own["grid"], -np.array(other["grid"]), atol=1e-5)


def test_what_time_did_not_allow_is_null(finder):
    """A budget of next to nothing gives the scores, no weights, and says that it is not complete."""
    answer = ask(finder, picture(1), method="ablation", budget_s="1e-9", grid=4)
    assert (answer["evaluations"], answer["complete"]) == (2, False)
    assert answer["grid"] == [[None] * 4] * 4
    assert json.dumps(answer, allow_nan=False)


def test_integrated_gradients_are_complete_through_a_compiled_module(residual):
    """They add up to the change of the score within captum's delta, on a network that is fused for predictions."""
    answer = ask(residual, picture(5, 16), method="integrated_gradients", n_steps=100, grid=4)
    change = answer["score"] - answer["baseline_score"]
    assert np.sum(answer["grid"]) == pytest.approx(change + answer["convergence_delta"], abs=1e-5)
    assert abs(answer["convergence_delta"]) < 0.02 * abs(change)
    assert abs(change) > 1e-3


def test_integrated_gradients_agree_with_the_eager_network(tmp_path):
    """Summed over the pixels of each cell, they are captum's own on the network and its inputs."""
    from captum.attr import IntegratedGradients

    torch.manual_seed(2)
    model = Residual().eval()
    worker = make_worker(model, 16, tmp_path, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    answer = ask(worker, picture(5, 16), method="integrated_gradients", n_steps=40, grid=4, target="patch")
    (pixels,) = worker.preprocess(Payload([picture(5, 16)]))[0].sample.inputs
    grey = np.broadcast_to(np.round(np.array([0.4, 0.5, 0.6]) * 255).astype(np.uint8), pixels.shape)
    ends = [worker.handler.collate([(each,)])[0] for each in (pixels, grey)]
    probability = IntegratedGradients(lambda image: torch.softmax(model(image), 1)[:, 1])
    own = probability.attribute(ends[0], ends[1], n_steps=40).detach().sum(1)[0].reshape(4, 4, 4, 4).sum((1, 3))
    np.testing.assert_allclose(answer["grid"], own.numpy(), atol=1e-5)


@pytest.mark.parametrize("fault", ["crops", "no gradients"])
def test_gradients_that_are_not_there_are_not_offered(residual, fault):
    """501, with the methods that are."""
    if fault == "crops":
        changed = dataclasses.replace(residual.variant, crops=(Crop(0, 0, 0, 0, 1, 1),))
        worker = dataclasses.replace(residual, variant=changed)
    else:
        (bucket,) = residual.buckets
        cut = {
            size: lambda *each, run=run: tuple(out.detach() for out in run(*each)) for size, run in bucket.runs.items()
        }
        worker = dataclasses.replace(residual, buckets=[dataclasses.replace(bucket, runs=cut)])
    answer = ask(worker, picture(1, 16), method="integrated_gradients")
    assert isinstance(answer, NotOffered)
    assert str(answer).endswith("expected method: occlusion, ablation, shapley, kernel_shap")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "magic"}, f"the method is 'magic', expected one of {', '.join(METHODS)}"),
        ({"method": ["shapley"]}, "the method is"),
        ({"target": "dragon"}, r"the target is 'dragon', expected one of 2 labels \(none, patch\)"),
        ({"target": 2}, "the target is '2'"),
        ({"target": -1}, "the target is '-1'"),
        ({"target": True}, "the target is 'True'"),
        ({"budget_s": 31}, "budget_s is 31, expected seconds over 0, at most 30"),
        ({"budget_s": "soon"}, "budget_s is 'soon'"),
        ({"budget_s": "nan"}, "budget_s is 'nan'"),
        ({"budget_s": 0}, "budget_s is 0"),
        ({"n_samples": 0, "method": "shapley"}, "n_samples is '0', expected a whole number of 1 to 20000"),
        ({"n_steps": 10**6}, "n_steps is '1000000'"),
        ({"grid": 33}, "grid is '33', expected a whole number of 1 to 32"),
        ({"top_k": 3}, "an explanation has no parameter top_k; it takes: method, target, budget_s, n_samples"),
    ],
)
def test_a_wrong_parameter_is_refused(finder, parameters, message):
    """400 that says what was found and what is known."""
    answer = ask(finder, picture(1), **parameters)
    assert isinstance(answer, BadRequest)
    with pytest.raises(BadRequest, match=message):
        raise answer


def test_a_label_that_is_a_number_is_a_label_first(tmp_path):
    """Digits as labels: "1" is the one that is called so."""
    worker = make_worker(PatchFinder(), 32, tmp_path, labels=("1", "0"))
    assert ask(worker, picture(1), target="1")["target"] == "1"
    assert ask(worker, picture(1), target=0)["target"] == "1"


def test_a_broken_item_is_named(finder):
    """Its position in the request, as for predictions."""
    answer = ask(finder, picture(1), b"no picture", form=LIST)
    assert isinstance(answer, UnsupportedType)
    assert str(answer).startswith("item 1: ")


def test_a_heat_map_is_a_picture_of_one_item(finder):
    """PNG for a client that accepts it; 400 for several items at once."""
    answer = ask(finder, picture(1), accept="image/png")
    assert isinstance(answer, Encoded)
    assert (answer.content_type, answer.body[:4]) == ("image/png", b"\x89PNG")
    assert isinstance(ask(finder, picture(1), picture(2), accept="image/png", form=LIST), BadRequest)


def test_a_handler_without_features_offers_no_explanations(finder):
    """501 by default, for handlers that say nothing of it."""
    specs = artifact.TensorSpec("x", "float32", (1, 1))
    worker = dataclasses.replace(finder, handler=Echo({}, [(specs,)]))
    bucket = dataclasses.replace(finder.buckets[0], runs={1: lambda each: (each,)})
    answer = explain_payload(dataclasses.replace(worker, buckets=[bucket]), Payload([1.0]))
    assert isinstance(answer, NotOffered)
    assert "Echo does not explain its answers" in str(answer)


def test_a_fault_of_a_handler_is_an_answer(finder):
    """500 with its name, not a dead worker."""

    class Broken(type(finder.handler)):
        def features(self, sample, parameters):
            raise KeyError("a bug")

    broken = Broken(finder.handler.settings, finder.handler.buckets)
    answer = ask(dataclasses.replace(finder, handler=broken), picture(1))
    assert isinstance(answer, ModelError)
    assert "KeyError: 'a bug'" in str(answer)


def test_a_score_that_is_no_number_is_not_explained(tmp_path):
    """500, as for predictions."""

    class Nothing(torch.nn.Module):
        def forward(self, image):
            return image.mean((2, 3))[:, :2] * float("nan")

    answer = ask(make_worker(Nothing(), 8, tmp_path), picture(1, 8), target="patch", grid=2)
    assert isinstance(answer, ModelError)
    assert "not a number" in str(answer)


def test_the_time_of_a_batch_is_shared(finder):
    """Four requests that TorchServe hands over at once have a quarter each of the longest time."""

    class Hasty(type(finder.handler)):
        explanation_limit_s = 1e-9

    hasty = dataclasses.replace(finder, handler=Hasty(finder.handler.settings, finder.handler.buckets))
    answer = explain_payload(hasty, Payload([picture(1)]), share=4)
    assert (answer["complete"], answer["evaluations"]) == (False, 2)
    assert Handler.explanation_limit_s == 30


def test_a_seed_follows_from_the_item():
    """Equal items, equal seeds, of any kind of value; within what torch takes."""
    one, two = (np.arange(4), torch.ones(2)), (np.arange(4) + 1, torch.ones(2))
    assert make_seed(one) == make_seed((np.arange(4), torch.ones(2))) != make_seed(two)
    assert 0 <= make_seed(two) < 2**63


@pytest.mark.parametrize("method", FORWARD_METHODS)
def test_no_method_warns(residual, method):
    """A worker's warnings fill TorchServe's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(ask(residual, picture(1, 16), method=method, n_samples=5), dict)


def test_the_service_explains_each_row(tiny_folder):
    """A heat map, JSON and a refusal in one batch of TorchServe's, each with its type and status."""
    service = Service(tiny_folder)
    service.initialize()
    wanted = {"explain": "True"}
    headers = [{**wanted, "Accept": "image/png"}, {**wanted, "Accept": "application/json; grid=2"}, wanted]
    context = make_context(tiny_folder, headers)
    rows = [{"body": picture(1, 8)}, {"body": picture(2, 8)}, {"body": b"no picture"}]
    png, text, refusal = service.handle(rows, context)
    assert png.startswith(b"\x89PNG")
    assert np.shape(json.loads(text)["grid"]) == (2, 2)
    assert json.loads(refusal)["code"] == 415
    service.worker.lease.release()


@pytest.fixture
def prices(tmp_path):
    """A worker for tables whose model is linear in a number that may be missing and a category of three."""
    columns = [
        {"name": "rooms", "kind": "numeric", "mean": 4.0, "std": 2.0, "optional": True, "fill": 4.0},
        {"name": "place", "kind": "category", "categories": ["sea", "town", "hill"]},
    ]
    specs = (artifact.TensorSpec("row", "float32", (1, 5)),)
    handler = TabularRegressor({"columns": columns, "target": {"name": "price", "mean": 100.0, "std": 10.0}}, [specs])
    weights = torch.tensor([3.0, -1.0, 5.0, 2.0, 0.0])
    record = make_record()
    bucket = Bucket(specs, dict.fromkeys((1, 4), lambda rows: (rows @ weights,)))
    return Worker(record, record.variants[0], handler, [bucket], Lease((), 0, []), [])


@pytest.mark.parametrize("method", FORWARD_METHODS)
def test_a_row_is_explained_by_column(prices, method):
    """In the target's unit, all values of a category together, against the row in which all is left out."""
    body = {"instances": [{"rooms": 8, "place": "sea"}], "parameters": {"method": method, "window": 1}}
    payload = prices.handler.read({"body": json.dumps(body).encode()}, {"body": "application/json"})
    (answer,) = explain_payload(prices, payload)["explanations"]
    ends = [prices.handler.preprocess(payload.items[0])[0], prices.handler.baseline()]
    distance = (ends[0] - ends[1]) * [3.0, -1.0, 5.0, 2.0, 0.0] * 10
    found = {name: each["weight"] for name, each in answer["columns"].items()}
    assert found == pytest.approx({"rooms": distance[:2].sum(), "place": distance[2:].sum()}, abs=1e-3)
    assert (answer["target"], found["rooms"] != 0, found["place"] != 0) == ("price", True, True)


def test_a_table_has_one_target(prices):
    """Its name may be said; another is refused with it."""
    payload = prices.handler.read({"body": b'{"rooms": 8, "place": "sea"}'}, {"body": "application/json"})
    right, wrong = (payload._replace(parameters={"target": name}) for name in ("price", "size"))
    assert explain_payload(prices, right)["target"] == "price"
    assert "expected 'price'" in str(explain_payload(prices, wrong))
