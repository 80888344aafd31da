"""Both releases of TorchServe, and versions of a model: which one answers is what the URL says."""

from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.artifact import Golden
from tests import archives, servers
from tests.servers import RECIPES, Server
from tracing import checking

RED = (RECIPES / "tiny_red.png").read_bytes()


def test_the_release_under_test_is_the_one_that_answers(server: Server, request: pytest.FixtureRequest) -> None:
    """The tests' "0.11.0" and "0.12.0" are what the servers say of themselves."""
    release = request.node.callspec.params["server"].split()[0]
    description = requests.get(f"{server.inference}/api-description", timeout=10).json()
    assert description["info"]["version"] == release


def test_the_version_in_the_url_is_answered(server: Server) -> None:
    """/predictions/tiny/1.0 is the archive's version, with the same answer as without."""
    assert server.predict(RED, path="/predictions/tiny/1.0").json() == server.predict(RED).json()


@pytest.mark.parametrize("path", ["/predictions/tiny/2.0", "/predictions/other", "/v2/models/other/infer"])
def test_an_unknown_model_or_version_is_not_found(server: Server, path: str) -> None:
    """What is not there is a 404 in JSON."""
    answer = server.predict(RED, path=path)
    assert answer.status_code == 404
    assert sorted(answer.json()) == ["code", "message", "type"]


@pytest.mark.parametrize("release", ["0.12.0", "0.11.0"])
def test_two_versions_are_served_side_by_side(
    tiny_archive: Path, plain_python: Path, tmp_path: Path, release: str
) -> None:
    """Each version answers at its URL with its own code and labels; without a version the first one answers."""
    capitals = _capital_labels(tiny_archive)
    second = archives.with_version(tiny_archive, tmp_path / "second.mar", "2.0", **capitals)
    path = [servers.install_torchserve(release)] if release != "0.12.0" else []
    with servers.run_server(
        tiny_archive, tmp_path / "s", python=plain_python, python_path=path, beside=[second]
    ) as running:
        servers.wait_for_answer(running, RED, 200, path="/predictions/tiny/2.0")
        assert _first(running, "/predictions/tiny") == "red"
        assert _first(running, "/predictions/tiny/1.0") == "red"
        assert _first(running, "/predictions/tiny/2.0") == "RED"


def _capital_labels(archive: Path) -> dict[str, Any]:
    record = checking.read_archive_record(archive)
    handler = {**record.handler.settings, "labels": [each.upper() for each in record.handler.settings["labels"]]}
    golden = tuple(
        Golden(each.name, each.file, each.content_type, {label.upper(): value for label, value in each.answer.items()})
        for each in record.golden
    )
    return {"handler": type(record.handler)(record.handler.path, handler), "golden": golden}


def _first(server: Server, path: str) -> str:
    label: str = next(iter(server.predict(RED, path=path).json()))
    return label
