"""What a million requests cost on an instance, at a price that is given or that AWS's pages showed on a date."""

import json
from dataclasses import dataclass

from serving.errors import ServerError
from serving.instances import TABLE

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Price:
    """The price of an hour of one machine."""

    usd_per_hour: float
    source: str  # where it is from, and when it was read


def find_price(instance: str) -> Price:
    """Return the first price in the table of instances; raise ``ServerError`` where there is none."""
    rows = {row["name"]: row for row in json.loads(TABLE.read_text())["instances"]}
    if instance not in rows:
        raise ServerError(f"unknown instance type {instance!r}; known are {', '.join(rows)}; or give --price USD")
    prices = rows[instance].get("prices", [])
    if not prices:
        raise ServerError(f"the table of instances has no price of {instance}; give one with --price USD")
    found = prices[0]
    return Price(float(found["usd_per_hour"]), f"{instance}, {found['kind']}, {found['date']}")


def cost_of_a_million(price: Price, requests_per_second: float) -> float:
    """Return USD for a million requests at full use: 1e6 / rate * price / 3600.

    The formula of AWS's benchmark pages (AWS docs: about-neuron/benchmarks/inf1/index.rst).

    >>> round(cost_of_a_million(Price(0.36, ""), 1000), 3)
    0.1
    """
    return 1e6 / requests_per_second * price.usd_per_hour / _SECONDS_PER_HOUR
