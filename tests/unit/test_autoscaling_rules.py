"""The Prometheus adapter's rules: queries that a real Prometheus computes, and names that the autoscaler asks for."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import KUBERNETES, only, render_with

RULES: list[dict[str, Any]] = yaml.safe_load((KUBERNETES / "adapter" / "values.yaml").read_text())["rules"]["custom"]
LABELS = 'namespace="inference",pod="torchserve-a"'
# Ten requests a second for five minutes, 25 ms in the queue each; with the guard, nine of ten wait 20 ms at most.
BUSY = {
    f"ts_queue_latency_microseconds{{{LABELS},model_name='tiny'}}": "0+3750000x20",
    f"ts_inference_requests_total{{{LABELS},model_name='tiny'}}": "0+150x20",
    f"tsn_wait_seconds_bucket{{{LABELS},le='0.02'}}": "0+135x20",
    f"tsn_wait_seconds_bucket{{{LABELS},le='0.04'}}": "0+150x20",
    f"tsn_wait_seconds_bucket{{{LABELS},le='+Inf'}}": "0+150x20",
    f"tsn_wait_seconds_count{{{LABELS}}}": "0+150x20",
}
IDLE = dict.fromkeys(BUSY, "1000x20")


def rule_named(name: str) -> dict[str, Any]:
    return next(each for each in RULES if each["name"]["as"] == name)


def query_of(name: str) -> str:
    """The rule's query as the adapter fills it in for one pod."""
    matchers = 'namespace="inference",pod=~"torchserve-a"'
    return str(rule_named(name)["metricsQuery"]).replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")


def compute(folder: Path, name: str, series: dict[str, str], expected: float) -> "subprocess.CompletedProcess[str]":
    """Let promtool compare the rule's value after five minutes of ``series`` with ``expected``."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    samples = [
        {
            "expr": query_of(name),
            "eval_time": "5m",
            "exp_samples": [{"labels": '{pod="torchserve-a"}', "value": expected}],
        }
    ]
    inputs = [{"series": each, "values": values} for each, values in series.items()]
    tests = [{"interval": "15s", "input_series": inputs, "promql_expr_test": samples}]
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": tests}))
    return subprocess.run([tool, "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("name", "series", "expected"),
    [
        ("torchserve_queue_milliseconds", BUSY, 25.0),
        ("torchserve_queue_milliseconds", IDLE, 0.0),
        ("torchserve_wait_p95_milliseconds", BUSY, 30.0),
        ("torchserve_wait_p95_milliseconds", IDLE, 0.0),
    ],
)
def test_a_rule_gives_milliseconds(name: str, series: dict[str, str], expected: float, tmp_path: Path) -> None:
    """Busy and idle pods get the waiting time that the series say."""
    run = compute(tmp_path, name, series, expected)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["name"]["as"]))
def test_a_rule_belongs_to_pods(rule: dict[str, Any]) -> None:
    """Series, labels and query mean pods of a namespace, and the query is limited to those asked for."""
    assert set(rule) == {"seriesQuery", "resources", "name", "metricsQuery"}
    assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}
    series, _, _ = rule["seriesQuery"].partition("{")
    assert series in rule["metricsQuery"]
    assert rule["metricsQuery"].count("[2m]") == rule["metricsQuery"].count("<<.LabelMatchers>>")


def test_the_autoscaler_asks_for_a_rule(tmp_path: Path) -> None:
    """Its metric is one that the adapter has."""
    objects = render_with(tmp_path, "cpu", ("monitoring", "autoscaling"))
    (metric,) = only(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["type"] == "Pods"
    assert rule_named(metric["pods"]["metric"]["name"])
