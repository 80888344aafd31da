"""A benchmark's outcome: ratios of neighbouring rounds, tables, and a page that needs no network."""

import json
import re
from html.parser import HTMLParser

import pytest

from benchmarking.bench import Outcome
from benchmarking.limit import Limit
from benchmarking.measuring import Sample
from benchmarking.page import to_page
from benchmarking.prices import Price
from benchmarking.report import to_json, to_markdown


def make_sample(system: str, concurrency: int, rate: float, **more: object) -> Sample:
    """Return one run's figures."""
    told = {
        "offered": 0.0,
        "latency_ms": {"50": 1.0, "90": 2.0, "99": 3.0, "99.9": 4.0},
        "errors": {},
        "wrong": 0,
        "server_ms": 0.2,
        "worker_ms": 0.3,
        "generator_ms": 0.02,
        "memory_mb": {"server": 200.0, "worker": 300.0},
        "log_bytes": 0.0,
        "stages_us": {"queue": 100.0, "model": 50.0},
        "batch": 2.0,
        **more,
    }
    return Sample(system=system, concurrency=concurrency, rate=rate, **told)  # type: ignore[arg-type]


@pytest.fixture
def outcome() -> Outcome:
    """Two rounds of three systems, the second round on a machine half as fast."""
    found = Outcome("tiny<b>", "1.0", "cpu", False, "two processors", "2026-11-21", Price(0.11, "given"))
    for speed in (1.0, 0.5):
        for system, rate in (("kit", 800.0), ("stock, 1 worker(s)", 100.0), ("stock, 2 worker(s)", 200.0)):
            found.samples += [make_sample(system, 1, rate * speed / 4), make_sample(system, 16, rate * speed)]
        found.open_samples.append(make_sample("kit", 256, 500.0 * speed, offered=560.0))
        found.limits.append(Limit(1000.0 * speed, 0.0005, 0.0001))
    found.start_seconds = {"kit": [2.0, 3.0]}
    return found


def test_ratios_are_to_the_better_stock_server_of_the_same_round(outcome: Outcome) -> None:
    """The slow round changes nothing."""
    ratios = outcome.ratios()
    assert ratios["rate over the better stock server, 16 at a time"].value == 4.0
    assert ratios["rate over no server at all, 16 at a time"].value == 0.8
    assert ratios["p99 over p50 at 70% of the highest rate"].value == 3.0


def test_the_report_has_every_system_and_its_cost(outcome: Outcome) -> None:
    """A row for each system and concurrency; 600 requests a second at 0.11 dollars an hour are 0.051 a million."""
    text = to_markdown(outcome)
    rows = [line for line in text.splitlines() if line.startswith("| kit | 16 |")]
    assert len(rows) == 1
    assert rows[0].split(" | ")[2] == "600"
    assert rows[0].rstrip(" |").endswith("0.051")


def test_an_emulated_outcome_says_so(outcome: Outcome) -> None:
    """No figure of an emulated chip can be taken for a chip's."""
    outcome.emulated = True
    assert "EMULATED" in to_markdown(outcome)
    assert "EMULATED" in to_page(outcome)


def test_json_holds_the_ratios(outcome: Outcome) -> None:
    """What the gate compares."""
    assert json.loads(to_json(outcome))["ratios"]["rate over no server at all, 16 at a time"]["value"] == 0.8


def test_the_page_asks_for_nothing_and_escapes_names(outcome: Outcome) -> None:
    """It opens without a network, and a model's name is no markup."""
    page = to_page(outcome)
    assert not re.findall(r"(?:src|href|url\()[=\"']?\s*https?:", page)
    assert "tiny<b>" not in page
    assert "tiny&lt;b&gt;" in page


def test_the_page_is_well_formed(outcome: Outcome) -> None:
    """Every element that is opened is closed."""
    opened: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            opened.extend([] if tag == "meta" else [tag])

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Parser().feed(to_page(outcome))
    assert opened == []
