"""Every shipped recipe on every target, EMULATED for inf1 and inf2: built, served, and asked rightly and wrongly."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handlers.cores import LEASE_FOLDER_VARIABLE
from handlers.service import EMULATED_HEADER, RANDOM_HEADER
from tests.console import run_console
from tests.end_to_end.test_recipe_serving import send
from tests.ports import find_port_row
from tests.serving_cases import CASES, RANDOM_CASES
from tracing.loading import list_recipes

CHIPS = {"cpu": (), "inf1": ("--target", "inf1", "--emulate"), "inf2": ("--target", "inf2", "--emulate")}
ALL = {**CASES, **RANDOM_CASES}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_every_shipped_recipe_has_cases() -> None:
    """A new recipe cannot be forgotten; cifar10 has tests of its own."""
    assert set(list_recipes()) - {"cifar10"} <= set(ALL)


# Those with weights are served on cpu by tests/end_to_end/test_recipe_serving.py.
PAIRS = [(model, target) for model in ALL for target in CHIPS if target != "cpu" or model in RANDOM_CASES]


@pytest.mark.parametrize(("model", "target"), PAIRS)
def test_right_requests_are_answered_beside_wrong_ones(model: str, target: str, tmp_path: Path) -> None:
    """Each on its own merits; answers say when they are emulated, and when the weights are random."""
    port = find_port_row(5)
    environment = {
        **os.environ,
        LEASE_FOLDER_VARIABLE: str(tmp_path / "l"),
        "NEURON_EMULATOR_FOLDER": str(tmp_path / "n"),
    }
    places = ("--store", str(tmp_path / "store"), "--build", str(tmp_path / "build"))
    weights = ("--weights", "random") if model in RANDOM_CASES else ()
    words = (*places, *CHIPS[target], *weights, "--port", str(port), "--workers", "1", "--wait", "600")
    done = run_console(environment, "serve", model, *words, timeout=1700)
    try:
        assert done.returncode == 0, done.stderr
        cases = [case for _ in range(2) for case in ALL[model]]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda case: send(f"http://127.0.0.1:{port}", model, case), cases))
        for case, answer in zip(cases, answers, strict=True):
            assert answer.status_code == case.status, (case.name, answer.text)
            assert case.holds(answer.json()), (case.name, answer.text)
            assert (EMULATED_HEADER in answer.headers) == (target != "cpu")
            assert (RANDOM_HEADER in answer.headers) == bool(weights)
    finally:
        run_console(environment, "stop", "--port", str(port))
