"""The error of the shipped housing model on the census' own rows, on each target; needs the file of the data."""

import json
import os
import subprocess
import sys

import pytest

from tests.servers import ROOT

DATA = os.environ.get("CALIFORNIA_HOUSING", "")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not DATA, reason="CALIFORNIA_HOUSING does not name the file california_housing.csv"),
]


@pytest.fixture(scope="module", params=["cpu", "inf1", "inf2"])
def archive(request, tmp_path_factory):
    """The archive for each target, and the words that emulate a chip."""
    folder = tmp_path_factory.mktemp(request.param)
    emulated = [] if request.param == "cpu" else ["--emulate"]
    words = ["mar", "housing", "--target", request.param, *emulated, "--store", folder, "--build", folder / "build"]
    _run("-m", "cli.main", *words)
    return folder / "housing.mar", emulated


def _run(*words):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("without", "limit"), [([], 45_000), (["total_bedrooms"], 46_000), (["population"], 60_000)])
def test_the_error_on_2000_rows_kept_apart(archive, without, limit):
    """Root mean square error in dollars through the packed archive: 60,000 is what is asked for."""
    path, emulated = archive
    more = ["--without", *without] if without else []
    report = json.loads(_run("tracing/recipes/housing/evaluate.py", path, DATA, *emulated, *more))
    print(path.parent.name, without, report)
    assert report["rows"] == 2000
    assert report["rmse"] < limit
