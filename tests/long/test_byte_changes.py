"""One changed byte anywhere in an archive: found by `check`, and by every worker that is to serve it."""

import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from handlers.cores import LEASE_FOLDER_VARIABLE
from tests import archives, servers
from tests.long.conftest import Shipped
from tests.servers import Server
from tracing import checking
from tracing.errors import CheckError

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
CHANGES = 200
SERVED = 15  # of them by a real TorchServe
AT_ONCE = 5  # in one server
Change = tuple[str, int, int]  # member, position, bits to turn


@pytest.fixture
def changes(shipped: Shipped) -> list[Change]:
    """Changes that are spread evenly over the members, then over the bytes of each; the same on every run."""
    dice = random.Random(0)
    members = {name: len(content) for name, content in archives.read_members(shipped.archive).items() if content}
    names = sorted(members)
    dice.shuffle(names)
    return [
        (name, dice.randrange(members[name]), 1 << dice.randrange(8))
        for name in (names * (CHANGES // len(names) + 1))[:CHANGES]
    ]


def test_check_refuses_every_change(shipped: Shipped, changes: list[Change], tmp_path: Path) -> None:
    """`check` names the member, or says that the archive is damaged."""
    accepted = []
    for number, (change, archive) in enumerate(changed_archives(shipped, changes, tmp_path)):
        try:
            checking.check_archive(archive, progress=lambda text: None)
            accepted.append(change)
        except CheckError as exc:
            if number % 20 == 0:
                print(f"check, change {number + 1} of {CHANGES}, {change}: {exc}", flush=True)
    assert accepted == []


def test_a_starting_worker_refuses_every_change(shipped: Shipped, changes: list[Change], tmp_path: Path) -> None:
    """A worker in a clean interpreter is not ready, and says why or does not start at all."""
    accepted = []
    archives = changed_archives(shipped, changes, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        for number, (change, state) in enumerate(pool.map(start_worker, archives)):
            if number % 20 == 0:
                print(f"worker, change {number + 1} of {CHANGES}, {change}: {state[:200]}", flush=True)
            if state == "ready":
                accepted.append(change)
    assert accepted == []


def test_torchserve_never_answers_from_a_changed_archive(
    shipped: Shipped, changes: list[Change], plain_python: Path, tmp_path: Path
) -> None:
    """Beside the whole archive, which is served, no changed one gives a single answer 200."""
    picked = changes[:: len(changes) // SERVED][:SERVED]
    for start in range(0, SERVED, AT_ONCE):
        group = picked[start : start + AT_ONCE]
        broken = [archive for _, archive in changed_archives(shipped, group, tmp_path / str(start))]
        names = {archive.stem: change for archive, change in zip(broken, group, strict=True)}
        load = ",".join([shipped.archive.name, *(f"{name}={name}.mar" for name in names)])
        with servers.run_server(
            shipped.archive,
            tmp_path / f"s{start}",
            probe=shipped.probe,
            python=plain_python,
            beside=broken,
            settings={"load_models": load},
        ) as server:
            for name, change in names.items():
                outcome = serve_changed(server, name, shipped.probe.read_bytes())
                print(f"TorchServe, {change}: {outcome[:200]}", flush=True)
                assert not outcome.startswith("200")


def changed_archives(shipped: Shipped, changes: list[Change], folder: Path) -> Iterator[tuple[Change, Path]]:
    """Write each changed archive, a whole zip, as it is asked for."""
    for number, change in enumerate(changes):
        member, position, bits = change
        archive = folder / f"changed{number}.mar"
        yield change, archives.tamper(shipped.archive, archive, {member: archives.flip_byte(position, bits)})


def start_worker(changed: tuple[Change, Path]) -> tuple[Change, str]:
    """Return the state of a worker of the archive, as the clean interpreter of `check` runs it: "ready", or why not."""
    change, archive = changed
    folder = archive.with_suffix("")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    done = subprocess.run(
        [sys.executable, "-I", str(checking.CLEAN_RUN), str(folder)],
        input="[]",
        capture_output=True,
        text=True,
        env={**os.environ, LEASE_FOLDER_VARIABLE: str(folder.with_suffix(".leases"))},
    )
    if not done.stdout.strip():
        return change, f"ended with {done.returncode}: {done.stderr[-300:]}"
    result = json.loads(done.stdout)
    state = result.get("state", {})
    return change, "ready" if state.get("status") == "ready" else result.get("fault", json.dumps(state))


def serve_changed(server: Server, model: str, body: bytes) -> str:
    """Return the first answer to a prediction; where a worker does not start at all, that there was none in 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            answer = server.predict(body, path=f"/predictions/{model}", timeout=10)
            return f"{answer.status_code}: {answer.text}"
        except requests.Timeout:
            continue
    return "no answer: TorchServe could not start a worker"
