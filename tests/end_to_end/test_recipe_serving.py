"""Each shipped recipe, served as `make serve` does it: right requests get their answers beside wrong ones."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image

from handlers.cores import LEASE_FOLDER_VARIABLE
from tests.console import run_console
from tests.ports import find_port_row
from tests.servers import wait_for
from tests.serving_cases import CASES, QUICK, Case

REPEATS = 4  # of every case, all at once, so that they share batches


@pytest.fixture(
    scope="module",
    params=[*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in CASES if name not in QUICK)],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A recipe's name, and the address of its server."""
    port, tmp_path = find_port_row(5), tmp_path_factory.mktemp("served")
    environment = {**os.environ, LEASE_FOLDER_VARIABLE: str(tmp_path / "leases")}
    places = ("--store", str(tmp_path / "store"), "--build", str(tmp_path / "build"))
    done = run_console(environment, "serve", request.param, *places, "--port", str(port), "--workers", "1")
    try:
        assert done.returncode == 0, done.stderr
        yield request.param, f"http://127.0.0.1:{port}"
    finally:
        run_console(environment, "stop", "--port", str(port))


def send(address: str, model: str, case: Case, route: str = "predictions", accept: str = "") -> requests.Response:
    """Send one case."""
    headers = {"Content-Type": case.content_type, "Accept": accept or case.accept}
    return requests.post(f"{address}/{route}/{model}", data=case.body, headers=headers, timeout=60)


def test_right_requests_are_answered_beside_wrong_ones(served: tuple[str, str]) -> None:
    """Each on its own merits, in whatever batch it comes to lie."""
    model, address = served
    cases = [case for _ in range(REPEATS) for case in CASES[model]]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda case: send(address, model, case), cases))
    for case, answer in zip(cases, answers, strict=True):
        assert answer.status_code == case.status, (case.name, answer.text)
        assert case.holds(answer.json()), (case.name, answer.text)


# Key of an explanation's features, and how many there are; None for models that explain nothing.
EXPLAINED = {
    "tiny": ("grid", 8),
    "housing": ("columns", 9),
    "minilm": ("tokens", 7),
    "distance": None,
    "matcher": None,
    "craft_small": ("grid", 8),
}


def test_explanations(served: tuple[str, str]) -> None:
    """Of every item of a request, through TorchServe's own route; or 501 from models that offer none."""
    model, address = served
    case = CASES[model][0]
    answer = send(address, model, case, "explanations")
    expected = EXPLAINED[model]
    if expected is None:
        assert (answer.status_code, answer.json()["type"]) == (501, "NotOffered"), answer.text
        return
    assert answer.status_code == 200, answer.text
    key, count = expected
    assert len(answer.json()[key]) == count
    wrong = next(each for each in CASES[model] if each.status != 200)
    assert send(address, model, wrong, "explanations").status_code == wrong.status


def test_forms_of_answers(served: tuple[str, str]) -> None:
    """Each model gives raw outputs; npy has the items first; what is not offered is refused with 406."""
    model, address = served
    case = CASES[model][0]
    raw = send(address, model, case, accept="application/json; form=raw")
    assert raw.status_code == 200
    assert isinstance(raw.json(), (dict, list))
    array = send(address, model, case, accept="application/x-npy")
    if array.status_code == 200:
        assert array.headers["Content-Type"] == "application/x-npy"
        assert np.load(io.BytesIO(array.content), allow_pickle=False).shape[0] == 1
    else:
        assert (array.status_code, model) in {(406, "distance"), (406, "matcher")}, array.text
    assert send(address, model, case, accept="text/html").status_code == 406


def test_padding_is_a_metric(served: tuple[str, str]) -> None:
    """TorchServe's own endpoint has the counters that the workers report."""
    model, address = served
    send(address, model, CASES[model][0])
    port = int(address.rpartition(":")[2]) + 2

    def find() -> str:
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        return text if "tsn_computed_values{" in text and "tsn_padded_values{" in text else ""

    assert wait_for(find, "the metrics of padding", seconds=20)


def test_a_heat_map_over_a_picture(served: tuple[str, str]) -> None:
    """A client that accepts PNG gets one of the picture's own shape; of other models it is told that there is none."""
    model, address = served
    answer = send(address, model, CASES[model][0], "explanations", accept="image/png")
    if model not in ("tiny", "craft_small"):
        assert answer.status_code == 406
        return
    assert answer.headers["Content-Type"] == "image/png", answer.text
    drawn, sent = (Image.open(io.BytesIO(each)).size for each in (answer.content, CASES[model][0].body))
    assert drawn[0] / drawn[1] == pytest.approx(sent[0] / sent[1], rel=0.02)
