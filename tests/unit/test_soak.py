"""What becomes of a request in a soak's books: which answers are right, which a fault explains, and what grows."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarking.soaking import measuring, reporting, traffic
from benchmarking.soaking.accounting import (
    ABANDONED,
    FAULT,
    GRACE,
    LOST,
    REFUSED,
    RIGHT,
    WRONG,
    Exchange,
    Expectation,
    Fault,
    Ledger,
    judge,
    quantiles,
    tabulate,
)
from benchmarking.soaking.clients import Routes
from benchmarking.soaking.host import render_config
from benchmarking.soaking.measuring import Sample
from benchmarking.soaking.traffic import Known

CAT = Expectation(body=[{"cat": 0.9}], tolerance=0.01)
BAD = Expectation((400,))
KILL = Fault("kill", "cifar10", 10.0, 14.0)
KNOWN = Known("tiny", bytes(range(200)), ({"red": 1.0},), 1e-5)


def exchange(status: int = 200, body: bytes = b'{"cat":0.9}', **how: Any) -> Exchange:
    """Return a request to cifar10 that was in flight from 11 to 12 s."""
    return replace(Exchange("raw", "cifar10", 11.0, 12.0, status, body), **how)


@pytest.mark.parametrize(
    ("seen", "expected", "end"),
    [
        (exchange(), CAT, RIGHT),
        (exchange(body=b'{"cat":0.905}'), CAT, RIGHT),
        (exchange(body=b'{"cat":0.7}'), CAT, WRONG),
        (exchange(body=b"not JSON"), CAT, WRONG),
        (exchange(body=b'{"dog":0.5}'), Expectation(body=[{"cat": 0.9}, {"dog": 0.5}]), RIGHT),
        (exchange(body=b'{"cat":0.9,"seconds":3}'), replace(CAT, only=("cat",)), RIGHT),
        (exchange(400), CAT, WRONG),
        (exchange(400), BAD, REFUSED),
        (exchange(415), BAD, WRONG),
        (exchange(200), BAD, WRONG),
        (exchange(500), BAD, WRONG),
        (exchange(0), CAT, LOST),
        (exchange(0), replace(BAD, cut=True), REFUSED),
        (exchange(0, abandoned=True), CAT, ABANDONED),
    ],
)
def test_every_answer_has_its_end(seen: Exchange, expected: Expectation, end: str) -> None:
    """Without a fault in flight, a good request has its right answer and a bad one its status, or it is wrong."""
    assert judge(seen, expected, [])[0] == end


@pytest.mark.parametrize(
    ("seen", "fault", "end"),
    [
        (exchange(507), KILL, FAULT),
        (exchange(507), replace(KILL, ended=math.inf), FAULT),
        (exchange(507, began=14.0 + GRACE), KILL, FAULT),
        (exchange(507, began=14.1 + GRACE, ended=20.0), KILL, WRONG),
        (exchange(507, began=8.0, ended=9.9), KILL, WRONG),
        (exchange(507), replace(KILL, model="tiny"), WRONG),
        (exchange(507), replace(KILL, model=""), FAULT),
        (exchange(507), replace(KILL, kind="roll"), WRONG),
        (exchange(507), replace(KILL, kind="stop"), WRONG),
        (exchange(0), KILL, LOST),
        (exchange(body=b'{"dog":1.0}'), KILL, WRONG),
    ],
)
def test_a_fault_explains_only_what_it_can(seen: Exchange, fault: Fault, end: str) -> None:
    """A 5xx of the same model at the same time is explained by a kill; a lost or a wrong answer never is."""
    assert judge(seen, CAT, [fault])[0] == end


def test_a_ledger_judges_when_the_faults_are_over() -> None:
    """A 5xx in flight during a fault is explained also where it was booked before the fault had ended."""
    ledger = Ledger()
    number = ledger.begin(replace(KILL, ended=math.inf))
    ledger.add(exchange(507), CAT)
    ledger.end(number, 14.0)
    ledger.add(exchange(), CAT)
    table = tabulate(ledger.settle())
    assert table["ends"] == {FAULT: 1, RIGHT: 1}
    assert table["latency_ms"]["kill"]["requests"] == 1
    assert [each["why"][:5] for each in table["failed"]] == ["kill:"]


def test_what_goes_wrong_is_said_once() -> None:
    """News hold each wrong or lost request one time, with its model and the reason."""
    ledger = Ledger()
    ledger.add(exchange(), CAT)
    ledger.add(exchange(0, error="TimeoutError: timed out"), CAT)
    (said,) = ledger.news()
    assert "cifar10, raw: lost: TimeoutError" in said
    assert ledger.news() == []


def test_quantiles_are_nearest_ranks_in_milliseconds() -> None:
    """Of 1 to 100 ms the median is 51 and the longest 100."""
    assert quantiles([n / 1000 for n in range(100, 0, -1)]) == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "max": 100.0}


@pytest.mark.parametrize("make", traffic.GOOD)
def test_good_requests_know_their_answer(make: Any) -> None:
    """Every form has the golden answer, or one that is learned from the quiet server."""
    request = make(KNOWN)
    assert request.expected.statuses == (200,)
    assert request.expected.body or make in traffic.LEARNED


def test_the_mix_is_the_same_for_the_same_seed() -> None:
    """A seed makes the same traffic again, with good, bad, leaving and huge requests in it."""
    mixes = [[traffic.pick({"tiny": [KNOWN]}, chance) for _ in range(400)] for chance in map(random.Random, (7, 7))]
    assert mixes[0] == mixes[1]
    kinds = {each.kind for each in mixes[0]}
    assert {"raw", "empty", "multipart", "kserve v2", "slow sender"} <= kinds
    assert kinds & set(traffic.LEAVING)


def test_routes_tell_earlier_requests_from_later_ones() -> None:
    """What was sent before a model was withdrawn is counted until it is answered; what is sent later is not."""
    routes = Routes()
    routes.put([KNOWN])
    early, early_epoch = routes.take(lambda models: traffic.raw(models["tiny"][0]))
    second = routes.put([KNOWN])
    routes.take(lambda models: traffic.raw(models["tiny"][0]))
    assert routes.flying("tiny", second) == 1
    routes.done(early, early_epoch)
    assert routes.flying("tiny", second) == 0


def _samples(step: float) -> list[Sample]:
    return [Sample(5.0 * n, 300 + step * n, 40, 20) for n in range(100)]


@pytest.mark.parametrize(("step", "growth"), [(0.0, 0.0), (0.1, 7.9), (1.0, 79.0)])
def test_growth_is_fitted_after_the_warm_up(step: float, growth: float) -> None:
    """The first fifth of the samples does not count; of the rest a straight line is drawn."""
    summary = measuring.summarise(_samples(step))
    assert summary is not None
    assert summary["growth_mb"] == pytest.approx(growth, abs=0.1)


def test_growth_over_the_limit_is_a_problem() -> None:
    """A worker may grow by 40 MB, the JVM by 100 MB; the message names the process and the figures."""
    summaries = measuring.summarise_all({"server": _samples(1.0), "tiny 1.0, process 5": _samples(1.0)})
    (fault,) = measuring.find_growth(summaries)
    assert fault == "tiny 1.0, process 5: memory grew by 79.0 MB in 395 s, at most 40"


def test_one_step_is_no_growth() -> None:
    """A library that is loaded once, in the middle of a worker's life, does not make a slope."""
    samples = [replace(each, rss=each.rss + 60 * (each.at > 300)) for each in _samples(0.0)]
    summary = measuring.summarise(samples)
    assert summary is not None
    assert summary["growth_mb"] == 0.0


def test_a_young_process_is_measured_and_not_judged() -> None:
    """Below three minutes growth is reported, and is no problem yet."""
    summaries = measuring.summarise_all({"tiny 1.0, process 5": _samples(5.0)[:40]})
    assert summaries["tiny 1.0, process 5"]["growth_mb"] > measuring.MOST_GROWTH_MB["worker"]
    assert measuring.find_growth(summaries) == []


def test_a_short_life_has_no_slope() -> None:
    """A worker that was killed within seconds says nothing about growth."""
    assert measuring.summarise(_samples(1.0)[:5]) is None


def test_the_server_is_the_kits_own_on_loopback(tmp_path: Path) -> None:
    """The soak's settings are those of config.properties, but for addresses, folders and models that may be changed."""
    lines = render_config(tmp_path, {"tiny": tmp_path / "tiny.mar"}, [1, 2, 3, 4, 5]).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines)
    assert found["inference_address"] == "http://127.0.0.1:1"
    assert (found["enable_model_api"], found["load_models"]) == ("true", "tiny=tiny.mar")
    assert (found["max_request_size"], found["allowed_urls"]) == (str(traffic.LIMIT), "none")


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    """What a person wrote above the mark stays, what an earlier soak wrote below goes."""
    page = tmp_path / "soak.md"
    page.write_text(f"# Soak\n\nBy hand.\n\n{reporting.MARK}\n\nold\n")
    report = {
        "date": "2026-01-01",
        "machine": "here",
        "verdict": "passed",
        "problems": [],
        "table": tabulate([]),
        "seconds": 1.0,
        "faults": {},
        "processes": {},
        "left": {},
    }
    reporting.write(report, tmp_path / "o", page)
    text = page.read_text()
    assert "By hand." in text and "## Report of 2026-01-01" in text and "old" not in text
