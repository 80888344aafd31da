"""The progress of a benchmark: how far it has come, and how long it still takes."""

import pytest

from benchmarking.steps import Steps


@pytest.mark.parametrize(
    ("total", "begun", "seconds", "expected"),
    [
        (4, 1, 0.0, "[....................]   0%  run"),
        (4, 2, 10.0, "[#####...............]  25%  run, about 30 s left"),
        (100, 51, 600.0, "[##########..........]  50%  run, about 10 min left"),
        (2, 5, 3.0, "[####################] 100%  run, about 0 s left"),  # more than was planned
    ],
)
def test_a_step_is_told_with_its_place(total: int, begun: int, seconds: float, expected: str) -> None:
    """The steps that are done count, not the one that begins; the rest takes as long as they did."""
    told: list[str] = []
    times = iter([0.0, *[seconds] * begun])
    steps = Steps(total, told.append, lambda: next(times))
    for _ in range(begun):
        steps.begin("run")
    assert told[-1] == expected
