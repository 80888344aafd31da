"""Counters of a run: taken once the workers have reported all of it."""

import pytest

from benchmarking import scraping
from benchmarking.scraping import Scrape, scrape_settled


def test_what_was_answered_last_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers report once a second: a look right after a run would miss its end, and charge it to the next run."""
    early, late = ({("tsn_batch_requests_count", ""): count} for count in (7.0, 9.0))
    looks = iter([Scrape(early), Scrape(late)])
    slept: list[float] = []
    monkeypatch.setattr(scraping, "scrape", lambda port: next(looks))
    monkeypatch.setattr("time.sleep", slept.append)
    assert scrape_settled(1) == Scrape(late)
    assert slept
    assert slept[0] > 1.0


def test_a_server_without_such_counters_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock servers and Triton have none."""
    monkeypatch.setattr(scraping, "scrape", lambda port: Scrape({("ts_inference_requests_total", ""): 3.0}))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    assert scrape_settled(1).counters
