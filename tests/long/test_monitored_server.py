"""The dashboard and the rules against a real Prometheus that scrapes a real server on an emulated inf1.xlarge."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.emulation import EMULATOR, emulated_environment
from tests import monitored, prometheus, servers
from tests.console import run_console
from tests.monitored import FOLDER, Query
from tests.ports import find_free_ports
from tests.prometheus import Prometheus
from tests.servers import RECIPES, Server

pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(prometheus.MISSING), reason=prometheus.MISSING)]

INSTANCE = "inf1.xlarge"
RED = (RECIPES / "tiny_red.png").read_bytes()
EXPORTER = str(FOLDER / "neuron_monitor_exporter.py")
# A report of a chip in neuron-monitor's documented form, with the latencies that the emulator does not claim to know.
DOCUMENTED = {
    "instance_info": {"instance_name": "documented", "instance_id": "i-0", "instance_type": INSTANCE},
    "neuron_runtime_data": [
        {
            "neuron_runtime_tag": "1",
            "report": {
                "execution_stats": {
                    "execution_summary": {"completed": 123},
                    "error_summary": {"hardware": 0},
                    "latency_stats": {"total_latency": {"p50": 0.0033, "p99": 0.0041, "p100": 0.005}},
                }
            },
        }
    ],
}


@dataclass(frozen=True)
class Watched:
    """A server with two workers, and the Prometheus that scrapes it."""

    server: Server
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Both, after right and wrong requests, an explanation, and a worker that was killed at work."""
    folder = tmp_path_factory.mktemp("watched")
    host = {**emulated_environment(os.environ, INSTANCE), "NEURON_EMULATOR_FOLDER": str(folder / "neuron")}
    archive = _build_archive(folder)
    settings = {"model_metrics_auto_detect": "true"}
    with ExitStack() as stack:
        enter = stack.enter_context
        server = enter(servers.run_server(archive, folder / "s", workers=2, settings=settings, environment=host))
        emulated = enter(_export_emulated(folder, {**os.environ, **host}))
        documented = enter(_export_documented())
        targets = {
            "torchserve": [_target(server.metrics.removeprefix("http://"), "local")],
            "neuron-monitor": [_target(emulated, "local"), _target(documented, "documented")],
        }
        (folder / "prometheus").mkdir()
        running = Watched(server, enter(prometheus.run_prometheus(folder / "prometheus", targets)))
        servers.wait_for(lambda: len(running.prometheus.query("up == 1")) == 3, "three scraped targets")
        _send_mixed(server)
        _kill_a_worker_at_work(server)
        _send_mixed(server)
        yield running


@pytest.mark.parametrize("query", monitored.list_panel_queries(), ids=lambda query: query.place)
def test_every_panel_shows_data(watched: Watched, query: Query) -> None:
    """Each of its queries, as Grafana sends it with everything chosen."""
    text = monitored.fill_in(query.text, interval="2m", price="0.11")
    servers.wait_for(lambda: watched.prometheus.query(text), f"data of {query.place}: {text}", seconds=20)


@pytest.mark.parametrize(
    "rule", [each for each in monitored.list_rules() if "record" in each], ids=lambda x: x["record"]
)
def test_every_recording_rule_records(watched: Watched, rule: dict[str, Any]) -> None:
    """The series is there under its name and labels."""
    labels = ", ".join(f'{name}="{text}"' for name, text in rule.get("labels", {}).items())
    recorded = f"{rule['record']}{{{labels}}}"
    servers.wait_for(lambda: watched.prometheus.query(recorded), recorded, seconds=20)


@pytest.mark.parametrize("rule", [each for each in monitored.list_rules() if "alert" in each], ids=lambda x: x["alert"])
def test_every_alert_reads_series_that_exist(watched: Watched, rule: dict[str, Any]) -> None:
    """Each selector in it, with its labels: an alert that reads nothing would be quiet for ever."""
    selectors = re.findall(r"\b((?:tsn|ts|up|execution|hardware)[\w:]*(?:\{[^}]*\})?)", rule["expr"])
    assert selectors
    for selector in selectors:
        servers.wait_for(lambda text=selector: watched.prometheus.query(text), selector, seconds=20)


def test_no_rule_fails(watched: Watched) -> None:
    """Prometheus evaluates all of them without an error, such as two series on the side of a join that takes one."""
    rules = watched.prometheus.rules()
    assert len(rules) == len(monitored.list_rules())
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}


def test_the_emulated_workers_alert_and_their_text_is_filled_in(watched: Watched) -> None:
    """The one alert that this server deserves, with the names in its sentences."""
    alerts = servers.wait_for(lambda: _alerts(watched, "EmulatedWorkerInProduction"), "the alert", seconds=20)
    assert {alert["labels"]["core"] for alert in alerts} >= {"0", "1"}
    assert alerts[0]["annotations"]["summary"] == "local: tiny is served by the emulator, not by a chip"


def test_answers_are_counted_exactly(watched: Watched) -> None:
    """What Prometheus has of each status is what clients got."""
    names = {200: 'sum(tsn_answers{status="200"})', 415: 'sum(tsn_answers{status="415"})'}
    time.sleep(3)  # what was sent before has been reported, within a second, and scraped
    before = {status: watched.prometheus.value(text) for status, text in names.items()}
    got = _send_mixed(watched.server)

    def rise() -> dict[int, float]:
        return {status: watched.prometheus.value(text) - before[status] for status, text in names.items()}

    expected = {status: float(got[status]) for status in names}
    assert min(expected.values()) > 0
    servers.wait_for(lambda: rise() == expected, f"{expected}", seconds=15, log=lambda: str(rise()))


def test_a_worker_that_died_at_work_is_a_server_error(watched: Watched) -> None:
    """No handler could answer it, so that only TorchServe's own counter has it."""
    servers.wait_for(lambda: watched.prometheus.value("sum(Requests5XX)") >= 1, "a 5xx", seconds=10)
    assert watched.prometheus.value('sum(tsn_answers{status=~"5.."})') == 0


def test_the_cores_of_the_workers_are_those_that_neuron_monitor_sees(watched: Watched) -> None:
    """The join of both jobs is on the same cores of the same machine."""
    served = watched.prometheus.query('tsn_worker_ready{target="inf1", instance="local"}')
    seen = watched.prometheus.query('neuroncore_utilization_ratio{instance="local"}')
    assert {each["metric"]["core"] for each in served} == {each["metric"]["neuroncore"] for each in seen} == {"0", "1"}


def test_promtool_accepts_the_configuration() -> None:
    """With its rules; a warning counts as a fault."""
    done = _promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicate" not in done.stdout


@pytest.mark.parametrize("path", sorted((FOLDER / "rules").glob("*_test.yml")), ids=lambda path: path.stem)
def test_promtool_runs_the_tests_of_the_rules(path: Path) -> None:
    """Each alert fires when it should and stays quiet when it should not."""
    done = _promtool("test", "rules", path.name)
    assert done.returncode == 0, done.stdout + done.stderr


def _promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], cwd=FOLDER / "rules", capture_output=True, text=True, timeout=120)


def _build_archive(folder: Path) -> Path:
    places = ("--store", str(folder / "store"), "--build", str(folder / "build"))
    done = run_console(os.environ, "mar", "tiny", "--target", "inf1", "--emulate", *places)
    assert done.returncode == 0, done.stderr
    return folder / "store" / "tiny.mar"


def _target(address: str, machine: str) -> dict[str, Any]:
    return {"targets": [address], "labels": {"instance": machine, "environment": "production"}}


@contextmanager
def _export_emulated(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run ``neuron-monitor | exporter`` with a period of a second; the value is the exporter's address."""
    groups = ("neuroncore_counters", "memory_used", "neuron_runtime_vcpu_usage", "execution_stats")
    system = ("vcpu_usage", "memory_info", "neuron_hw_counters")
    config = {
        "period": "1s",
        "neuron_runtimes": [{"tag_filter": ".*", "metrics": [{"type": name} for name in groups]}],
        "system_metrics": [{"type": name} for name in system],
    }
    (folder / "monitor.json").write_text(json.dumps(config))
    command = [sys.executable, str(EMULATOR / "bin" / "neuron-monitor"), "-c", str(folder / "monitor.json")]
    [port] = find_free_ports(1)
    monitor = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    exporter = subprocess.Popen([sys.executable, EXPORTER, "--port", str(port)], stdin=monitor.stdout)
    assert monitor.stdout is not None
    monitor.stdout.close()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        monitor.terminate()
        monitor.wait(30)
        assert exporter.wait(30) == 1  # it ends with the reports


@contextmanager
def _export_documented() -> Iterator[str]:
    [port] = find_free_ports(1)
    command = [sys.executable, EXPORTER, "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as exporter:
        assert exporter.stdin is not None
        exporter.stdin.write(json.dumps(DOCUMENTED) + "\n")
        exporter.stdin.flush()
        yield f"127.0.0.1:{port}"


def _send_mixed(server: Server) -> Counter[int]:
    """Send requests for six seconds, four at a time, right and wrong, and one explanation; count their statuses."""
    end = time.monotonic() + 6

    def send(number: int) -> Counter[int]:
        got: Counter[int] = Counter()
        while time.monotonic() < end:
            body = b"no picture" if number == 3 else RED
            got[server.predict(body, headers={"X-Request-Start": f"t={time.time():.3f}"}).status_code] += 1
            time.sleep(0.05)
        return got

    with ThreadPoolExecutor(4) as pool:
        statuses = sum(pool.map(send, range(4)), Counter[int]())
    explained = server.predict(RED, path=f"/explanations/{server.model}")
    return statuses + Counter([explained.status_code])


def _kill_a_worker_at_work(server: Server) -> None:
    pids = server.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.predict, RED) for _ in range(2)]
        time.sleep(0.5)  # the requests are with the stopped workers
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        statuses = [each.result().status_code for each in waiting]
    assert max(statuses) >= 500, statuses
    servers.wait_for(lambda: len(server.worker_pids()) == 2, "two workers after the kill", log=server.log)
    servers.wait_for_answer(server, RED, 200)


def _alerts(watched: Watched, name: str) -> list[dict[str, Any]]:
    return [alert for rule in watched.prometheus.rules() if rule["name"] == name for alert in rule["alerts"]]
