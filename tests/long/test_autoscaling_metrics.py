"""The adapter's queries against a real Prometheus that scrapes a real server, as the autoscaler would see it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests import prometheus, servers
from tests.manifests import KUBERNETES
from tests.prometheus import Prometheus
from tests.servers import RECIPES, Server

pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(prometheus.MISSING), reason=prometheus.MISSING)]

RED = (RECIPES / "tiny_red.png").read_bytes()
# What Kubernetes' service discovery adds, and what the adapter makes of a question for this pod.
POD = {"namespace": "inference", "pod": "torchserve-a"}
MATCHERS = 'namespace="inference",pod=~"torchserve-a"'


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus after five seconds of eight clients at a server with one worker, and a quiet start before them."""
    folder = tmp_path_factory.mktemp("autoscaling")
    archive = servers.build_archive("tiny", folder)
    settings = {"model_metrics_auto_detect": "true"}
    with servers.run_server(archive, folder / "s", settings=settings) as server:
        targets = {
            "torchserve": [{"targets": [server.metrics.removeprefix("http://")], "labels": POD}],
            "neuron-monitor": [],
        }
        (folder / "prometheus").mkdir()
        with prometheus.run_prometheus(folder / "prometheus", targets) as running:
            servers.wait_for(lambda: running.query("ts_queue_latency_microseconds"), "a first scrape")
            _send(server, seconds=5)
            time.sleep(3)  # what was answered last has been reported, within a second, and scraped
            yield running


@pytest.mark.parametrize("name", ["torchserve_queue_milliseconds", "torchserve_wait_p95_milliseconds"])
def test_a_crowded_server_has_a_waiting_time(scraped: Prometheus, name: str) -> None:
    """The metric is there for the pod, above nothing and below the time of the whole crowd."""
    [sample] = scraped.query(_rule(name)["metricsQuery"])
    assert sample["metric"] == {"pod": "torchserve-a"}
    assert 0.1 < float(sample["value"][1]) < 5000


def test_the_mean_is_that_of_the_counters(scraped: Prometheus) -> None:
    """The rule's milliseconds are what the server's own two sums say."""
    rise = "sum(increase({}[2m]))"
    total = scraped.value(rise.format("ts_queue_latency_microseconds"))
    count = scraped.value(rise.format("ts_inference_requests_total"))
    assert count > 50
    assert scraped.value(_rule("torchserve_queue_milliseconds")["metricsQuery"]) == pytest.approx(
        total / count / 1000, rel=0.05
    )


@pytest.mark.parametrize("name", ["torchserve_queue_milliseconds", "torchserve_wait_p95_milliseconds"])
def test_the_adapter_discovers_the_series(scraped: Prometheus, name: str) -> None:
    """What it looks for at its start is there once the server was asked."""
    assert scraped.query(_rule(name)["seriesQuery"])


def _rule(name: str) -> dict[str, str]:
    rules = yaml.safe_load((KUBERNETES / "adapter" / "values.yaml").read_text())["rules"]["custom"]
    rule: dict[str, str] = next(each for each in rules if each["name"]["as"] == name)
    filled = rule["metricsQuery"].replace("<<.LabelMatchers>>", MATCHERS).replace("<<.GroupBy>>", "pod")
    return {**rule, "metricsQuery": filled}


def _send(server: Server, *, seconds: float) -> None:
    end = time.monotonic() + seconds

    def ask(_: int) -> None:
        while time.monotonic() < end:
            answer = server.predict(RED, headers={"X-Request-Start": f"t={time.time():.3f}"})
            assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
