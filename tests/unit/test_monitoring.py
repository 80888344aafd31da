"""The dashboard, the rules and their documentation agree with each other and with the metrics that there are."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from monitoring import instance_rules, neuron_monitor_exporter
from tests import monitored
from tests.monitored import FOLDER, ROOT, Query

PAGE = (ROOT / "docs" / "monitoring.md").read_text()
PANELS = monitored.list_panels()
RULES = monitored.list_rules()
ALERTS = [rule for rule in RULES if "alert" in rule]
QUERIES = [*monitored.list_panel_queries(), *monitored.list_rule_queries()]
CORE_PANELS = {"stat", "timeseries", "heatmap", "table", "state-timeline", "bargauge", "gauge", "text"}
# What TorchServe 0.11 and 0.12 answer in prometheus mode, and what Prometheus knows by itself.
SERVER_METRICS = {
    "Requests2XX",
    "Requests4XX",
    "Requests5XX",
    "WorkerLoadTime",
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
    "up",
    "ALERTS",
}
UNITS = {
    *("s", "ms", "reqps", "ops", "percentunit", "bytes", "short", "none", "currencyUSD"),
}


def by_title(panel: dict[str, Any]) -> str:
    """Name a test after its panel."""
    return str(panel["title"])


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yml")), ids=lambda path: path.name)
def test_every_yaml_file_parses(path: Path) -> None:
    """To an object, not to a list or a word."""
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_prometheus_reads_the_rules_and_not_their_tests() -> None:
    """Each file of rules is named, and none of promtool's test files."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    there = {f"rules/{path.name}" for path in (FOLDER / "rules").glob("*.yml") if not path.stem.endswith("_test")}
    assert set(config["rule_files"]) == there


def test_both_jobs_give_a_machine_one_name() -> None:
    """Rules join servers and NeuronCores on ``instance``."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    names = {job["job_name"]: job["static_configs"][0]["labels"]["instance"] for job in config["scrape_configs"]}
    assert sorted(names) == ["neuron-monitor", "torchserve"]
    assert len(set(names.values())) == 1


def test_the_dashboard_opens_in_grafana_10_and_later() -> None:
    """A uid, a schema version of Grafana 10.4, and nothing left over from an export."""
    dashboard = monitored.read_dashboard()
    assert dashboard["uid"] == "torchserve-neuron"
    assert dashboard["schemaVersion"] == 39
    assert not {"__inputs", "__requires", "id"} & set(dashboard)


def test_panels_have_numbers_of_their_own() -> None:
    """Grafana silently drops the second of two panels with one id."""
    numbers = [panel["id"] for panel in monitored.read_dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_panels_do_not_overlap() -> None:
    """Each in the grid of 24 columns, on free cells."""
    cells: list[tuple[int, int]] = []
    for panel in monitored.read_dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells += itertools.product(columns, rows)
    assert len(set(cells)) == len(cells)


@pytest.mark.parametrize("panel", PANELS, ids=by_title)
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """A title, a sentence, a unit, and at least one query."""
    assert panel["title"]
    assert panel["description"].endswith("."), panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]


@pytest.mark.parametrize("panel", PANELS, ids=by_title)
def test_every_panel_is_grafanas_own_and_reads_the_chosen_data_source(panel: dict[str, Any]) -> None:
    """No plugin to install; the data source is the dashboard's variable, in the panel and in each query."""
    assert panel["type"] in CORE_PANELS
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_every_variable_in_a_query_is_the_dashboards_or_grafanas() -> None:
    """A misspelt one would be sent to Prometheus as it stands."""
    known = {variable["name"] for variable in monitored.read_dashboard()["templating"]["list"]}
    used = {name for query in monitored.list_panel_queries() for name in re.findall(r"\$(\w+)", query.text)}
    assert used <= known | {"__rate_interval"}


def test_titles_are_told_apart() -> None:
    """Two panels with one title are one too many within a row."""
    titles = [(row, panel["title"]) for row, panel in _with_rows()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_every_query_names_only_metrics_that_there_are(query: Query) -> None:
    """A worker's own, TorchServe's, neuron-monitor's, and what the rules record."""
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    device = {*neuron_monitor_exporter.GAUGES, *neuron_monitor_exporter.COUNTERS}
    unknown = monitored.find_metrics(query.text) - recorded - device - SERVER_METRICS
    emitted = set(re.findall(r'"(tsn_\w+)"', (ROOT / "handlers" / "metrics.py").read_text()))
    assert {name for name in unknown if not {name, _family(name)} & emitted} == set()


def test_every_metric_of_a_worker_in_a_query_is_documented() -> None:
    """On the page of metrics, under its name or a histogram's."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    named = {name for query in QUERIES for name in monitored.find_metrics(query.text) if name.startswith("tsn_")}
    assert named
    assert {name for name in named if f"`{name}" not in page and f"`{_family(name)}" not in page} == set()


def test_metrics_are_found_in_a_query() -> None:
    """The test above rests on it: labels, functions, windows and label lists are none."""
    text = 'sum by (le, up) (rate(a_total{b="c"}[5m])) / on (d) group_left (e) (f:g:h > 0) or {__name__=~"i_(j|k)"}'
    assert monitored.find_metrics(text) == {"a_total", "f:g:h", "i_j", "i_k"}


def test_what_is_recorded_is_read() -> None:
    """By the dashboard, an alert, another rule, or a person whom the page tells of it."""
    read = {name for query in QUERIES for name in monitored.find_metrics(query.text)}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert {name for name in recorded - read if f"`{name}`" not in PAGE} == set()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    """A time, a severity, two sentences, and a section of the page that exists."""
    assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    page, anchor = alert["annotations"]["runbook"].split("#")
    assert page == "docs/monitoring.md"
    assert anchor == alert["alert"].lower()
    assert f"### {alert['alert']}\n" in PAGE


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_test_for_promtool(alert: dict[str, Any]) -> None:
    """That it fires: its name stands among the samples that a test expects."""
    tests = "".join(path.read_text() for path in (FOLDER / "rules").glob("alerts_*_test.yml"))
    assert re.search(rf'labels: [^\n]*(\n +)?[^\n]*alertname="{alert["alert"]}", alertstate="firing"', tests)


def test_the_table_of_instances_is_the_one_of_the_kit() -> None:
    """Prices, cores and memory are written once; after a change: python monitoring/instance_rules.py."""
    table = json.loads(instance_rules.TABLE.read_text())
    assert instance_rules.render_rules(table) == instance_rules.RULES.read_text()


def test_the_prices_to_choose_from_are_those_of_the_kit() -> None:
    """Each dated price of the table, and no other."""
    rows = json.loads(instance_rules.TABLE.read_text())["instances"]
    expected = {
        f"{row['name']} {price['kind']} {price['date']}": str(price["usd_per_hour"])
        for row in rows
        for price in instance_rules.list_prices(row)
    }
    [variable] = [each for each in monitored.read_dashboard()["templating"]["list"] if each["name"] == "price"]
    assert {option["text"]: option["value"] for option in variable["options"]} == expected
    assert dict(pair.split(" : ") for pair in variable["query"].split(", ")) == expected


def test_the_exporter_answers_with_the_documented_names() -> None:
    """A report in neuron-monitor's form, with two periods: gauges are the last, executions are added up."""
    reports = neuron_monitor_exporter.Reports()
    for utilisation in (20.0, 86.0):
        reports.add(_report(utilisation))
    lines = reports.render().splitlines()
    common = 'instance_id="i-1",instance_name="web",instance_type="inf1.xlarge"'
    place = 'availability_zone="us-east-1a"'
    runtime = 'region="us-east-1",runtime_tag="7"'
    end = f'{runtime},subnet_id="s"'
    assert f'neuroncore_utilization_ratio{{{place},{common},neuroncore="0",{end}}} 0.86' in lines
    assert f'execution_status_total{{{place},{common},{runtime},status_type="completed",subnet_id="s"}} 20.0' in lines
    assert "# TYPE execution_status_total counter" in lines
    assert f'execution_latency_seconds{{{place},{common},percentile="p50",{end}}} 0.0033' in lines


def test_the_exporter_answers_at_one_path() -> None:
    """Metrics with the content type that Prometheus 3 insists on; anything else is a 404."""
    reports = neuron_monitor_exporter.Reports()
    reports.add(_report(50.0))
    server = neuron_monitor_exporter.serve_reports(reports, "127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        answer = requests.get(f"{address}/metrics", timeout=10)
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.text == reports.render()
        assert requests.get(f"{address}/other", timeout=10).status_code == 404
    finally:
        server.shutdown()
        server.server_close()


def test_the_exporter_ends_with_the_reports() -> None:
    """With status 1, since metrics that stand still are worse than none; lines that are no report are passed over."""
    command = [sys.executable, str(FOLDER / "neuron_monitor_exporter.py"), "--port", "0"]
    done = subprocess.run(command, input="nonsense\n{}\n", capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "not a report of neuron-monitor (JSONDecodeError" in done.stderr
    assert "neuron-monitor has ended" in done.stderr


def _with_rows() -> list[tuple[str, dict[str, Any]]]:
    row, found = "", []
    for panel in monitored.read_dashboard()["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        found += [(row, panel)] if panel["type"] != "row" else []
    return found


def _family(name: str) -> str:
    """Return a histogram's name for that of one of its series."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def _report(utilisation: float) -> dict[str, Any]:
    places = {"instance_availability_zone": "us-east-1a", "instance_region": "us-east-1", "subnet_id": "s"}
    runtime = {
        "neuroncore_counters": {"neuroncores_in_use": {"0": {"neuroncore_utilization": utilisation}}},
        "execution_stats": {
            "execution_summary": {"completed": 10},
            "error_summary": {"generic": 0},
            "latency_stats": {"total_latency": {"p50": 0.0033}, "device_latency": None},
        },
    }
    return {
        "instance_info": {"instance_name": "web", "instance_id": "i-1", "instance_type": "inf1.xlarge", **places},
        "neuron_runtime_data": [{"pid": 7, "neuron_runtime_tag": "7", "report": runtime}],
        "system_data": {},
    }
