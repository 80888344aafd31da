"""Measure the error of a packed housing archive on the test rows, which it gets as CSV requests.

    torchserve-neuron mar housing
    python tracing/recipes/housing/evaluate.py model_store/housing.mar ../shared/data/california_housing.csv

``--all`` takes every row of the file, for one that was kept apart from training; ``--emulate`` runs an archive for a
chip on this processor; ``--without population`` leaves a column out.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import dataset  # before handlers: it puts the project's root on the path
import numpy as np
from columns import TARGET

from handlers.payloads import MOST_ITEMS

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    arguments = _parse_arguments()
    table = dataset.load_table(arguments.data)
    if not arguments.all:
        _, table = dataset.split_table(table)
    with tempfile.TemporaryDirectory() as folder:
        requests = write_requests(table, Path(folder), arguments.without)
        predicted = predict(arguments.archive, requests, emulated=arguments.emulate)
    errors = np.array(predicted) - table.prices
    report = {
        "rows": len(errors),
        "rmse": round(float(np.sqrt(np.mean(errors**2)))),
        "mae": round(float(np.mean(np.abs(errors)))),
    }
    print(json.dumps(report))


def write_requests(table: dataset.Table, folder: Path, without: list[str]) -> list[Path]:
    """Return CSV files with all rows, as many in each as a request may hold, without some of the columns."""
    names = [column.name for column in dataset.housing_columns()]
    unknown = sorted(set(without) - set(names))
    if unknown:
        raise SystemExit(f"--without: there is no column {', '.join(unknown)}; expected one of {', '.join(names)}")
    kept = [index for index, name in enumerate(names) if name not in without]
    paths = []
    for start in range(0, len(table.rows), MOST_ITEMS):
        path = folder / f"{start:06}.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            lines = [names, *table.rows[start : start + MOST_ITEMS]]
            csv.writer(stream).writerows([line[index] for index in kept] for line in lines)
        paths.append(path)
    return paths


def predict(archive: Path, requests: list[Path], *, emulated: bool) -> list[float]:
    """Return the predictions for the rows of all requests, from the archive in an interpreter of its own."""
    command = [sys.executable, "-m", "cli.main", "predict", archive.resolve(), *requests]
    done = subprocess.run(
        [*map(str, command), *(["--emulate"] if emulated else [])], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"predict failed with status {done.returncode}: {done.stdout[:400]}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [row for answer in answers for row in (answer if isinstance(answer, list) else [answer])]
    return [row[TARGET["name"]] for row in rows]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="housing.mar")
    parser.add_argument("data", type=Path, help="the CSV file, for example ../shared/data/california_housing.csv")
    parser.add_argument("--all", action="store_true", help="every row of the file, not only the test rows")
    parser.add_argument("--emulate", action="store_true", help="emulate the chip on this processor")
    parser.add_argument("--without", nargs="*", default=[], metavar="COLUMN", help="columns to leave out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
