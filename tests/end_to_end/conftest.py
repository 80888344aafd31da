"""What the end-to-end tests share: the interpreter of a stock container, both TorchServe releases, good requests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.servers import RECIPES, Server
from tracing import checking

# How the shared servers differ: TorchServe's release, and whether it parses JSON and text bodies for the worker.
KINDS = ("0.12.0 parsed", "0.12.0 bytes", "0.11.0 parsed", "0.11.0 bytes")


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with what a stock container has, and without the kit."""
    return servers.make_plain_python(tmp_path_factory.mktemp("plain") / "venv")


@pytest.fixture(scope="session", params=KINDS)
def server(
    request: pytest.FixtureRequest, tiny_archive: Path, plain_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The archive in a plain TorchServe, of each release and with bodies parsed or not."""
    release, form = request.param.split()
    path = [servers.install_torchserve(release)] if release != "0.12.0" else []
    settings = {"decode_input_request": str(form == "parsed").lower()}
    folder = tmp_path_factory.mktemp("server") / "s"
    with servers.run_server(tiny_archive, folder, python=plain_python, python_path=path, settings=settings) as running:
        yield running


@pytest.fixture(scope="session")
def good(tiny_archive: Path) -> list[tuple[bytes, Any]]:
    """Requests with their right answers: the pictures that the archive was verified with."""
    record = checking.read_archive_record(tiny_archive)
    return [((RECIPES / golden.name).read_bytes(), golden.answer) for golden in record.golden]
