"""A container stopped under load: what was accepted is answered, with the guard no connection is cut in the middle."""

import http.client
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.entrypoints import Entrypoint, run_entrypoint
from tests.servers import RECIPES

pytestmark = pytest.mark.long
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed (Debian: nginx-light)"
)
BODY = (RECIPES / "tiny_red.png").read_bytes()
CLIENTS = 8


class _Load:
    """Clients that ask again as soon as they are answered, each request on a connection of its own."""

    def __init__(self, entrypoint: Entrypoint) -> None:
        self.port = entrypoint.ports[0]
        self.ends: list[tuple[float, float, str]] = []  # sent, ended, how
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            how = self._ask()
            self.ends.append((began, time.monotonic(), how))
            if how == "refused":
                time.sleep(0.05)

    def _ask(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.connect()
        except OSError:
            return "refused"
        try:
            connection.request("POST", "/predictions/tiny", BODY)
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except (OSError, http.client.HTTPException) as exc:
            return type(exc).__name__
        finally:
            connection.close()


def _stop_under_load(entrypoint: Entrypoint, seconds: float, *, goes_on: float = 0.0) -> tuple[int, float, _Load]:
    """Return the exit status, when SIGTERM was sent, and what clients saw; they ask ``goes_on`` s longer."""
    load = _Load(entrypoint)
    load.start()
    time.sleep(seconds)
    told = time.monotonic()
    if goes_on:
        threading.Timer(goes_on, load._stopped.set).start()
    status = entrypoint.stop()
    load.stop()
    return status, told, load


@needs_nginx
@pytest.mark.parametrize("release", ["0.12.0", "0.11.0"])
def test_behind_the_guard_nothing_is_cut_in_the_middle(tiny_archive: Path, tmp_path: Path, release: str) -> None:
    """SIGTERM in the middle of 20 s of load: every connection that was made gets its answer, and the status is 0."""
    old = [servers.install_torchserve(release)] if release != "0.12.0" else []
    with run_entrypoint(tmp_path, tiny_archive.parent, python_path=old, guard=1) as entrypoint:
        status, _, load = _stop_under_load(entrypoint, 10.0)
    ends = Counter(how for _, _, how in load.ends)
    assert status == 0, entrypoint.log()
    assert set(ends) == {"200", "refused"}, ends
    assert ends["200"] > 100


def test_without_the_guard_what_was_accepted_is_answered(tiny_archive: Path, tmp_path: Path) -> None:
    """Clients go on for 5 s after SIGTERM and are all answered; then it ends by itself, with status 0."""
    with run_entrypoint(tmp_path, tiny_archive.parent, tokens=0) as entrypoint:
        status, told, load = _stop_under_load(entrypoint, 10.0, goes_on=5.0)
    ends = Counter(how for _, _, how in load.ends)
    assert (status, set(ends)) == (0, {"200"}), (entrypoint.log(), ends)
    assert time.monotonic() - told < 25


def test_a_load_that_never_ceases_is_ended_in_time(tiny_archive: Path, tmp_path: Path) -> None:
    """After TSN_DRAIN_SECONDS it stops; what came before the signal is answered, so the status is 0."""
    with run_entrypoint(tmp_path, tiny_archive.parent, tokens=0, drain_seconds=5) as entrypoint:
        status, told, load = _stop_under_load(entrypoint, 5.0)
    lost = [how for began, _, how in load.ends if began < told and how != "200"]
    assert (status, lost) == (0, []), entrypoint.log()
    assert any(began > told + 4 and how == "200" for began, _, how in load.ends)


def test_a_second_signal_stops_at_once(tiny_archive: Path, tmp_path: Path) -> None:
    """Without waiting for the clients, and the status says that something was cut."""
    with run_entrypoint(tmp_path, tiny_archive.parent, tokens=0) as entrypoint:
        load = _Load(entrypoint)
        load.start()
        time.sleep(2)
        entrypoint.process.send_signal(signal.SIGTERM)
        servers.wait_for(lambda: "told to stop" in entrypoint.log(), "the first signal taken", seconds=5)
        began: float = time.monotonic()
        status: Any = entrypoint.stop()
        took = time.monotonic() - began
        load.stop()
    assert status in (0, 3)  # 0 if the first round of questions was through
    assert took < 15
