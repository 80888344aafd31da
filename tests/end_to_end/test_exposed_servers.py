"""Real TorchServe servers as a stranger sees them: as `make serve` starts them, without and with tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.exposure import ERROR, OK, WARNING
from serving.exposure_local import examine_own, find_own_listeners
from serving.requesting import Client
from serving.runs import RunFolder
from serving.server import Served, ServeSettings, start, stop
from tests.exposed import look
from tests.ports import find_port_row
from tracing.checking import read_archive_record


@contextmanager
def served(archive: Path, **settings: Any) -> Iterator[Served]:
    """Start a server the way `make serve` does."""
    port = find_port_row()
    chosen = ServeSettings(port=port, workers=1, wait=120.0, **settings)
    try:
        yield start(archive, read_archive_record(archive), chosen, progress=print)
    finally:
        stop(port)


@pytest.fixture(scope="module")
def shipped(tiny_archive: Path) -> Iterator[Served]:
    """A server as `make serve` starts it."""
    with served(tiny_archive) as running:
        yield running


def url_of(client: Client) -> str:
    """Return the address of a server's inference port."""
    return f"http://127.0.0.1:{client.port}"


def test_a_server_with_the_shipped_settings_has_no_error(shipped: Served) -> None:
    """What is open is open to this machine's users; registering models is closed."""
    found = look(url_of(shipped.client), active=True)
    assert [each for each in found.values() if each.level == ERROR] == []
    assert found["version"].found == "TorchServe 0.12.0"
    assert found["management"].level == WARNING
    assert (found["management: POST /models"].level, found["big bodies"].level) == (OK, OK)


def test_no_url_is_fetched_by_the_settings_that_are_shipped(shipped: Served) -> None:
    """POST /workflows is open in 0.12.0, and takes names of files in the store only."""
    found = look(url_of(shipped.client), active=True)
    assert found["management: POST /workflows"].level == WARNING
    assert found["foreign URLs: /workflows"].level == OK
    assert "not fetched" in found["foreign URLs: /workflows"].found


def test_the_look_changes_nothing(shipped: Served) -> None:
    """The model, its workers and their processes are what they were."""
    before = shipped.client.describe("tiny", customized=False, timeout=10)
    look(url_of(shipped.client), active=True)
    after = shipped.client.describe("tiny", customized=False, timeout=10)
    assert before is not None and after is not None
    kept = ("minWorkers", "maxWorkers", "modelVersion", "modelUrl")
    assert [before[0][key] for key in kept] == [after[0][key] for key in kept]
    assert [each["pid"] for each in before[0]["workers"]] == [each["pid"] for each in after[0]["workers"]]


def test_the_doctor_finds_a_server_of_ours_closed_to_other_addresses(shipped: Served) -> None:
    """Every port of the server's processes was tried from every address of this machine."""
    (finding,) = examine_own(shipped.client.port)
    assert (finding.level, str(shipped.client.port) in finding.found) == (OK, True)


def test_the_grpc_ports_are_found(shipped: Served) -> None:
    """They speak HTTP/2, on this machine only; `make serve` has them chosen by the kernel."""
    known = range(shipped.client.port, shipped.client.port + 3)
    listening = {each.port for each in find_own_listeners(shipped.state.pid)}
    inference, management = sorted(listening - set(known))
    found = look(url_of(shipped.client), grpc=(inference, management))
    assert [found[f"gRPC {what}"].found for what in ("inference", "management")] == ["speaks HTTP/2"] * 2


def test_tokens_are_seen(tiny_archive: Path) -> None:
    """Without a key nothing but metrics and the description; with it what its holder may do; the key is never shown."""
    with served(tiny_archive, token=True) as running:
        closed = look(url_of(running.client))
        assert closed["predictions"].meaning == closed["management"].meaning == "a key is wanted"
        assert "management: scaling" not in closed
        assert "they tell" in closed["metrics"].meaning
        opened = look(url_of(running.client), token=RunFolder(running.client.port).path / "key_file.json")
        assert "yours is taken" in opened["predictions"].meaning
        assert opened["management: scaling"].level == OK
        key = running.client.authorization("inference")["Authorization"].split()[1]
        assert key not in str(opened)
