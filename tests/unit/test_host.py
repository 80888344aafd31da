"""How much of the machine a container may use."""

from pathlib import Path

import pytest

from serving.host import count_processors, read_cpu_quota

QUOTAS = [
    ("max 100000\n", None),
    ("150000 100000\n", 1.5),
    ("400000 100000\n", 4.0),
    ("", None),
    ("nonsense\n", None),
]


@pytest.mark.parametrize(("content", "quota"), QUOTAS)
def test_reads_the_quota_of_a_container(tmp_path: Path, content: str, quota: float | None) -> None:
    """Processors are microseconds per period; "max" and what cannot be read are no limit."""
    file = tmp_path / "cpu.max"
    file.write_text(content)
    assert read_cpu_quota(file) == quota


def test_no_file_is_no_quota(tmp_path: Path) -> None:
    """Outside of a container, or in one of the older kind, nothing limits."""
    assert read_cpu_quota(tmp_path / "cpu.max") is None


def test_there_is_at_least_one_processor() -> None:
    """A worker always has somewhere to run."""
    assert count_processors() >= 1
