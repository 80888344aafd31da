"""wrk as a load generator: what it prints is read, and what it cannot do is said."""

import pytest

from benchmarking.wrk import find_wrk, read_result
from serving.errors import ServerError

PRINTED = """Running 1s test @ http://127.0.0.1:1/x
figures: {"requests": 100, "microseconds": 2000000, "latency": {"50": 1500, "90": 2500, "99": 3000, "99.9": 4500}, \
"connect": 0, "read": 3, "write": 0, "status": 20, "timeout": 0}
"""


def test_the_figures_that_wrk_prints_are_read() -> None:
    """Refusals are no answers; microseconds become milliseconds; only errors that there were are named."""
    found = read_result(PRINTED, 0.5)
    assert (found.answers, found.seconds, found.cpu_seconds) == (80, 2.0, 0.5)
    assert found.latency_ms == {"50": 1.5, "90": 2.5, "99": 3.0, "99.9": 4.5}
    assert found.errors == {"status of 400 or more": 20, "no answer": 3}


def test_a_wrk_that_prints_no_figures_has_failed() -> None:
    """With what it printed instead."""
    with pytest.raises(ServerError, match="wrk printed no figures, but: unable to connect"):
        read_result("unable to connect", 0.0)


def test_without_wrk_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is measured."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerError, match=r"no wrk on PATH; install .* or leave out --generator wrk"):
        find_wrk()
