"""Figures of repeated runs, and what a million requests cost."""

import math

import pytest

from benchmarking.figures import interval, percentile, ratio
from benchmarking.prices import Price, cost_of_a_million, find_price
from serving.errors import ServerError


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5.0], 99.9, 5.0), ([1.0, 2.0, 3.0, 4.0], 50, 2.0), ([4.0, 3.0, 2.0, 1.0], 100, 4.0), ([1.0, 9.0], 0, 1.0)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], percent: float, expected: float) -> None:
    """Nearest rank, in whatever order the values come."""
    assert percentile(values, percent) == expected


def test_nothing_measured_is_no_number() -> None:
    """An empty run has no percentile and no median."""
    assert math.isnan(percentile([], 50))
    assert math.isnan(interval([]).value)


def test_an_interval_holds_its_median_and_grows_with_the_spread() -> None:
    """Runs that agree leave a narrow interval, runs that do not a wide one."""
    narrow, wide = interval([10.0, 10.1, 9.9, 10.0, 10.0]), interval([5.0, 10.0, 20.0, 8.0, 14.0])
    assert narrow.low <= narrow.value <= narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_a_ratio_pairs_the_rounds() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    found = ratio([100.0, 50.0, 100.0], [25.0, 12.5, 25.0])
    assert (found.value, found.low, found.high) == (4.0, 4.0, 4.0)


def test_the_cost_is_that_of_aws_formula() -> None:
    """0.11 dollars an hour at 1,000 requests a second: 1e6 / 1000 * 0.11 / 3600."""
    assert cost_of_a_million(Price(0.11, "x"), 1000.0) == pytest.approx(0.030556, rel=1e-4)


def test_a_price_says_where_it_is_from() -> None:
    """The table's price comes with its kind and the day on which it was read."""
    found = find_price("inf1.xlarge")
    assert found.usd_per_hour == 0.11
    assert "inf1.xlarge" in found.source
    assert "20" in found.source


def test_an_unknown_instance_is_refused() -> None:
    """With the names that are known, and another way."""
    with pytest.raises(ServerError, match=r"unknown instance type 'p9'; known are inf1\.xlarge.*--price"):
        find_price("p9")
