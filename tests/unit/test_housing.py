"""The California housing recipe: built and served, its right answers and its refusals."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli.building import ensure_archive
from handlers.service import Service
from tests.fakes import make_context

FOLDER = Path(__file__).resolve().parents[2] / "tracing" / "recipes" / "housing"
ROW = json.loads((FOLDER / "one.json").read_text())


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A started service of the shipped recipe, built for cpu."""
    base = tmp_path_factory.mktemp("housing")
    archive = ensure_archive("housing", store=base / "store", build=base / "build")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "unpacked")
    found = Service(base / "unpacked")
    found.initialize()
    yield found
    if found.worker is not None:
        found.worker.lease.release()


def ask(service, *bodies) -> list[tuple[int, object]]:
    """Return the status and the answer of each request of a batch."""
    context = make_context(service.folder, [{}] * len(bodies))
    rows = [{"body": body if isinstance(body, bytes) else json.dumps(body).encode()} for body in bodies]
    answers = service.handle(rows, context)
    return [(code, json.loads(answer)) for (code, _), answer in zip(context.statuses, answers, strict=True)]


def price(service, **changes) -> float:
    """Return the answer to the example row with some columns changed; None leaves one out."""
    ((status, answer),) = ask(service, {name: value for name, value in {**ROW, **changes}.items() if value is not None})
    assert status == 200, answer
    return answer["median_house_value"]


# Six block groups of the census that training did not see, with their prices.
@pytest.mark.parametrize(
    ("row", "value"),
    [
        ((-122.28, 37.91, 48, 2083, 298, 685, 286, 7.3089, "NEAR BAY"), 331_200),
        ((-119.08, 36.22, 28, 1606, 320, 1158, 317, 3.0324, "INLAND"), 55_600),
        ((-118.4, 34.14, 52, 1695, 281, 595, 264, 6.0678, "<1H OCEAN"), 399_300),
        ((-122.31, 38.33, 21, 1922, 344, 1051, 342, 3.6042, "NEAR BAY"), 183_300),
        ((-117.06, 32.72, 31, 2669, 514, 1626, 499, 3.1923, "NEAR OCEAN"), 116_900),
        ((-118.29, 34.05, 34, 1102, None, 1325, 439, 1.5972, "<1H OCEAN"), 168_800),
    ],
)
def test_prices_are_about_right(service, row, value):
    """Within 60,000 dollars, of which the root mean square error is two thirds."""
    assert abs(price(service, **dict(zip(ROW, row, strict=True))) - value) < 60_000


@pytest.mark.parametrize(
    "name", ["housing_median_age", "total_rooms", "total_bedrooms", "population", "households", "ocean_proximity"]
)
def test_an_optional_column_may_be_missing(service, name):
    """The price is then another one, but of the same order."""
    assert price(service, **{name: None}) == pytest.approx(price(service), rel=0.4)


@pytest.mark.parametrize("name", ["longitude", "latitude", "median_income"])
def test_a_column_that_the_price_hangs_on_may_not_be_missing(service, name):
    """The refusal names it."""
    ((status, answer),) = ask(service, {key: value for key, value in ROW.items() if key != name})
    assert status == 400
    assert f"row 1, field '{name}': nothing found" in answer["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ocean_proximity": "SEASIDE"}, "field 'ocean_proximity': found 'SEASIDE', expected one of '<1H OCEAN', "),
        ({"longitude": 122.28}, "found 122.28, expected a number of at least -125 and of at most -114"),
        ({"median_income": 73_089}, "field 'median_income': found 73089"),
        ({"populaton": 3}, "field 'populaton': there is no such column; did you mean 'population'?"),
    ],
)
def test_a_wrong_field_is_named(service, changes, message):
    """A wrong sign or unit is a fault as well."""
    wrong, right = ask(service, {**ROW, **changes}, ROW)
    assert wrong[0] == 400
    assert message in wrong[1]["message"]
    assert right == (200, {"median_house_value": pytest.approx(price(service), abs=1)})


def test_the_most_extreme_rows_still_get_a_price(service):
    """Within what the census knows, whatever the network says so far from all it has learned."""
    for count in (0, 1_000_000):
        for income in (0, 50):
            counts = dict.fromkeys(("total_rooms", "total_bedrooms", "population", "households"), count)
            assert 14_999 <= price(service, **counts, median_income=income) <= 500_001


def test_a_wrong_row_refuses_its_own_request_only(service):
    """None of its rows is answered, and another client's are."""
    (status, answer), other = ask(service, [ROW, {**ROW, "population": "abc"}], [ROW, ROW])
    assert (status, answer["message"]) == (400, "row 2, field 'population': found 'abc', expected a number")
    assert other == (200, [{"median_house_value": pytest.approx(price(service), abs=1)}] * 2)


def test_a_wrong_row_of_the_data_is_named(tmp_path):
    """Its number and field, before anything is trained."""
    lines = [",".join([*ROW, "median_house_value"]), *[",".join(map(str, [*ROW.values(), 331_200]))] * 3]
    lines[3] = lines[3].replace("NEAR BAY", "NEAR SEA")
    (tmp_path / "wrong.csv").write_text("\n".join(lines))
    command = [sys.executable, FOLDER / "dataset.py", tmp_path / "wrong.csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "row 3, field 'ocean_proximity': found 'NEAR SEA'" in done.stderr
