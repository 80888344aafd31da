"""What the long tests share: every shipped archive that has weights, and the interpreter of a stock container."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handlers.artifact import Record
from handlers.comparing import find_difference
from tests import servers
from tests.servers import RECIPES
from tracing import checking

HAS_WEIGHTS = (RECIPES / "cifar10" / "weights.safetensors").exists()


@dataclass(frozen=True)
class Shipped:
    """A shipped model: its archive, and pictures with their right answers."""

    archive: Path
    record: Record
    good: list[tuple[bytes, Any]]
    probe: Path  # one of the pictures

    def fault_of(self, answer: Any, expected: Any) -> str:
        """Return how a JSON answer differs from the right one, or ""."""
        return find_difference(expected, answer, self.record.golden_tolerance)


@pytest.fixture(scope="session", params=["tiny", *(["cifar10"] if HAS_WEIGHTS else [])])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """Each shipped model in turn."""
    archive = servers.build_archive(request.param, tmp_path_factory.mktemp(request.param))
    record = checking.read_archive_record(archive)
    folder = RECIPES if (RECIPES / f"{request.param}.py").exists() else RECIPES / request.param
    good = [((folder / golden.name).read_bytes(), golden.answer) for golden in record.golden]
    return Shipped(archive, record, good, folder / record.golden[0].name)


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with what a stock container has, and without the kit."""
    return servers.make_plain_python(tmp_path_factory.mktemp("plain") / "venv")
