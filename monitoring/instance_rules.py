"""The rules file with what Prometheus must know of instance types: ``python monitoring/instance_rules.py``.

Writes ``rules/instances.yml`` from the table of the kit and the emulator, so that each figure is written once.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "emulator" / "neuron_emulator" / "instances.json"
RULES = HERE / "rules" / "instances.yml"
# One price of each kind for an instance type. Other kinds of the table are single sightings.
KINDS = ("reserved-effective", "on-demand")

_HEAD = """\
# Written by monitoring/instance_rules.py from emulator/neuron_emulator/instances.json: run it again after changes.
# Prices are for comparing sizes: put your own (region, contract, date) into the table before deciding anything by them.
groups:
  - name: torchserve-neuron-instances
    rules:
"""


def render_rules(table: dict[str, Any]) -> str:
    """Return the rules file: price per hour, number of cores and memory of a core of every instance type."""
    lines = [_HEAD]
    for row in table["instances"]:
        named = {"instance_type": row["name"]}
        lines.append(_render_rule("tsn:instance_cores", row["cores"], named))
        lines.append(_render_rule("tsn:instance_core_memory_bytes", int(row["device_gib_per_core"] * 2**30), named))
        for price in list_prices(row):
            labels = {**named, "kind": price["kind"], "priced": price["date"]}
            lines.append(_render_rule("tsn:instance_price_usd_per_hour", price["usd_per_hour"], labels))
    return "".join(lines)


def list_prices(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the prices of a row of the table that are of the known kinds."""
    return [price for price in row["prices"] if price["kind"] in KINDS]


def _render_rule(name: str, value: float, labels: dict[str, str]) -> str:
    written = ", ".join(f'{label}: "{text}"' for label, text in labels.items())
    return f"      - record: {name}\n        expr: vector({value})\n        labels: {{{written}}}\n"


def main() -> int:
    """Write the file."""
    RULES.write_text(render_rules(json.loads(TABLE.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
