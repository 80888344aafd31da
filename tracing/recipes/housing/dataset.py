"""The California housing data: rows as the handler takes them, split once for all by a fixed seed.

    python tracing/recipes/housing/dataset.py ../shared/data/california_housing.csv

prints the figures that columns.py standardises by.
"""

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parent)]

from columns import COLUMNS, TARGET  # noqa: E402  the recipe's folder is not a package

from handlers.columns import Column, Value, encode_row, read_columns  # noqa: E402

SEED = 4
TEST_ROWS = 2000
FOLDS = 8  # of the rest: each network of the ensemble is validated on one of its own, and trained on the others


@dataclass(frozen=True)
class Table:
    """Rows and what they should be answered."""

    rows: list[tuple[Value, ...]]  # a value for each column of COLUMNS
    prices: np.ndarray  # float64 (rows,), dollars

    def select(self, picked: np.ndarray) -> "Table":
        """Return the rows with these numbers."""
        return Table([self.rows[index] for index in picked], self.prices[picked])


def load_table(path: Path) -> Table:
    """Return the rows of the file in their order; raise ``ValueError`` that names the first row that is wrong."""
    columns = housing_columns()
    rows, prices = [], []
    with path.open(newline="", encoding="utf-8") as stream:
        for number, line in enumerate(csv.DictReader(stream), 1):
            row = tuple(_read(line, column) for column in columns)
            for column, value in zip(columns, row, strict=True):
                if fault := column.find_fault(value):
                    raise ValueError(f"{path}: row {number}, field {column.name!r}: {fault}")
            rows.append(row)
            prices.append(float(line[TARGET["name"]]))
    return Table(rows, np.array(prices))


def split_table(table: Table) -> tuple[Table, Table]:
    """Return the rows to learn from (training and validation) and the test rows."""
    order = np.random.default_rng(SEED).permutation(len(table.rows))
    return table.select(order[TEST_ROWS:]), table.select(order[:TEST_ROWS])


def fold_of_rows(count: int) -> np.ndarray:
    """Return the fold, 0 to ``FOLDS`` - 1, in which each of ``count`` rows is for validation; int (count,)."""
    return np.random.default_rng(SEED + 1).permutation(count) % FOLDS


def encode_table(table: Table) -> np.ndarray:
    """Return the rows as the served model sees them, float32 (rows, width), by the handler's own code."""
    columns = housing_columns()
    return np.stack([encode_row(columns, row) for row in table.rows])


def housing_columns() -> tuple[Column, ...]:
    """Return the columns as the handler reads them from the recipe's settings."""
    return read_columns(COLUMNS)[0]


def _read(line: dict[str, str], column: Column) -> Value:
    text = line[column.name]
    return None if not text else text if column.kind == "category" else float(text)


def main() -> None:
    learned, _ = split_table(load_table(Path(sys.argv[1])))
    for index, column in enumerate(housing_columns()):
        values = [row[index] for row in learned.rows if row[index] is not None]
        if column.kind == "numeric":
            scaled = np.log1p(values) if column.scale == "log" else np.array(values)
            figures = f"mean {scaled.mean():.4g}, std {scaled.std():.3g}, median {np.median(values):.6g}"
            print(f"{column.name}: {figures}, from {min(values):g} to {max(values):g}")
    prices = [math.log(price) for price in learned.prices]
    print(f"{TARGET['name']}: log has mean {np.mean(prices):.4g}, std {np.std(prices):.3g}")


if __name__ == "__main__":
    main()
