"""What monitoring/ holds, read for tests: the dashboard's panels, the rules, and the metrics that queries name."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "torchserve-neuron.json"
RULE_FILES = tuple(FOLDER / "rules" / name for name in ("instances.yml", "recording.yml", "alerts.yml"))

_WORDS = {"and", "or", "unless", "on", "by", "bool", "ignoring", "group_left", "group_right", "without", "offset"}
_LABEL_LISTS = r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)"


@dataclass(frozen=True)
class Query:
    """One query of a panel or a rule."""

    place: str  # where it stands, for messages
    text: str


def read_dashboard() -> dict[str, Any]:
    """Return the dashboard's JSON."""
    content: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return content


def list_panels() -> list[dict[str, Any]]:
    """Return the panels that show something: all but the rows."""
    return [panel for panel in read_dashboard()["panels"] if panel["type"] != "row"]


def list_rules() -> list[dict[str, Any]]:
    """Return all rules of all groups, those with ``record`` and those with ``alert``."""
    files = [yaml.safe_load(path.read_text()) for path in RULE_FILES]
    return [rule for content in files for group in content["groups"] for rule in group["rules"]]


def list_panel_queries() -> list[Query]:
    """Return the queries of all panels, with the dashboard's variables as they stand in the file."""
    return [
        Query(f"panel {panel['title']!r}, query {target['refId']}", target["expr"])
        for panel in list_panels()
        for target in panel["targets"]
    ]


def list_rule_queries() -> list[Query]:
    """Return the expressions of all rules."""
    return [Query(f"rule {rule.get('record') or rule['alert']}", rule["expr"]) for rule in list_rules()]


def fill_in(query: str, *, interval: str, price: str) -> str:
    """Return a panel's query as Grafana sends it with every machine and model chosen."""
    values = {"$__rate_interval": interval, "$instance": ".*", "$model": ".*", "$price": price}
    for name, value in values.items():
        query = query.replace(name, value)
    return query


def find_metrics(query: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression, those of an alternative in ``__name__`` spelt out."""
    named = re.findall(r'__name__=~"([^"(]*)\(([^)]*)\)"', query)
    found = {prefix + end for prefix, ends in named for end in ends.split("|")}
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\$\w+", " ", bare)
    bare = re.sub(_LABEL_LISTS, " ", bare)
    names = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\w*\s*\()", bare)
    return found | {name for name in names if name not in _WORDS}
