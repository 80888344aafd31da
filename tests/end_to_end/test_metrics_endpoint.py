"""The workers' metrics where Prometheus reads them: on the endpoint of a real server."""

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from handlers.metrics import STAGES, Metrics
from tests import archives, servers
from tests.servers import RECIPES, Server, wait_for
from tracing import checking

LINE = re.compile(r"(tsn_\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
RED = (RECIPES / "tiny_red.png").read_bytes()
Labels = frozenset[tuple[str, str]]


@pytest.fixture(scope="module", params=["0.12.0", pytest.param("0.11.0", marks=pytest.mark.long)])
def metered(
    request: pytest.FixtureRequest, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A worker of ``tiny``; version 2.0 of it fails its golden request, and files of 3.0 are not its own."""
    folder = tmp_path_factory.mktemp("metered")
    golden = [{**vars(each), "answer": {"green": 1.0}} for each in checking.read_archive_record(tiny_archive).golden]
    archives.with_version(tiny_archive, folder / "wrong.mar", "2.0", golden=golden)
    broken = archives.with_version(tiny_archive, folder / "whole.mar", "3.0")
    archives.tamper(broken, folder / "broken.mar", {"handlers/worker.py": lambda code: code + b"\n"})
    path = [servers.install_torchserve(request.param)] if request.param != "0.12.0" else []
    settings = {"model_metrics_auto_detect": "true"}
    with servers.run_server(
        tiny_archive,
        folder / "s",
        python_path=path,
        settings=settings,
        beside=[folder / "wrong.mar", folder / "broken.mar"],
    ) as running:
        yield running


def scrape(server: Server, version: str = "1.0") -> dict[str, dict[Labels, float]]:
    """Return the values of a version's metrics by name and by those of their labels that tell series apart."""
    found: dict[str, dict[Labels, float]] = {}
    for name, labels, value in LINE.findall(requests.get(f"{server.metrics}/metrics", timeout=10).text):
        named = dict(LABEL.findall(labels))
        assert (named.pop("model_name"), named.pop("Level"), bool(named.pop("Hostname"))) == ("tiny", "Model", True)
        if named.pop("model_version") == version:
            found.setdefault(name, {})[frozenset(named.items())] = float(value)
    return found


def only(server: Server, name: str, **labels: str) -> float:
    """Return the value of one series of version 1.0."""
    return scrape(server)[name][frozenset(labels.items())]


def test_the_last_request_is_seen_without_another_one(metered: Server) -> None:
    """Within about a second; refusals are counted by their status."""
    for body in (RED, RED, b"no picture"):
        metered.predict(body, headers={"X-Request-Start": f"t={time.time():.3f}"})

    def count() -> list[float]:
        answers = [only(metered, "tsn_answers", status=status) for status in ("200", "415")]
        return [*answers, only(metered, "tsn_wait_seconds_count")]

    # The server was found ready by one more request.
    wait_for(lambda: count() == [3, 1, 3], "the answers and waits of three requests", seconds=10)


def test_every_series_is_there(metered: Server) -> None:
    """All counters of a worker by their names and labels, of which quantiles want all buckets."""
    expected = {(each.name, frozenset(each.labels)) for each in Metrics().counters()}

    def present() -> bool:
        return expected <= {(name, labels) for name, series in scrape(metered).items() for labels in series}

    wait_for(present, "all series", seconds=10)


def test_buckets_are_whole_histograms(metered: Server) -> None:
    """Rising with their bounds, the last one ``+Inf`` with the count."""
    found = scrape(metered)
    for stage in STAGES:
        pairs = [dict(labels) for labels in found["tsn_stage_seconds_bucket"] if ("stage", stage) in labels]
        buckets = sorted(
            (float(each["le"]), found["tsn_stage_seconds_bucket"][frozenset(each.items())]) for each in pairs
        )
        values = [value for _, value in buckets]
        assert values == sorted(values)
        assert buckets[-1] == (math.inf, found["tsn_stage_seconds_count"][frozenset({("stage", stage)})])


@pytest.mark.parametrize("name", ["tsn_worker_ready", "tsn_golden_check"])
def test_a_worker_has_the_core_of_its_lease(metered: Server, name: str) -> None:
    """It is ready there, and has passed its golden requests."""
    (holder,) = [each for each in metered.holders() if each.label == "tiny 1.0"]
    place = {"core": str(holder.core), "target": "cpu", "emulated": "false"}
    assert scrape(metered)[name] == {frozenset(place.items()): 1.0}


@pytest.mark.parametrize("version", ["2.0", "3.0"])
def test_a_worker_that_cannot_serve_is_not_ready(metered: Server, version: str) -> None:
    """Whether its model answers wrongly, or its files are not those that were packed."""
    place = frozenset({"core": "none", "target": "none", "emulated": "false"}.items())
    found = wait_for(lambda: scrape(metered, version).get("tsn_worker_ready"), "its state", seconds=30)
    assert found == {place: 0.0}
    if version == "2.0":
        assert scrape(metered, version)["tsn_golden_check"] == {place: 0.0}
