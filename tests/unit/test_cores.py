"""Leases on cores, with real processes: never held twice, free the moment the holder is dead."""

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handlers import cores
from handlers.errors import NoCores

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from handlers.cores import take_lease
folder, kind, count, host, places = sys.argv[1:]
from pathlib import Path
lease = take_lease(kind, int(count), host_cores=range(int(host)), places=int(places), label="holder 1.0",
                   folder=Path(folder))
print(*lease.cores, flush=True)
sys.stdin.read()
"""


HOLDER = b'{"pid": %s, "label": "x", "since": 0}'


def hold(folder: Path, count: int = 1, host: int = 4, places: int = 1) -> subprocess.Popen:
    """Start a process that holds cores until it is killed or its input closed, and wait until it does."""
    arguments = [sys.executable, "-c", HOLD, str(folder), "cpu", str(count), str(host), str(places)]
    process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.cores = [int(each) for each in process.stdout.readline().split()]
    return process


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def take(folder: Path, count: int = 1, *, host=range(4), places: int = 1, kind: str = "cpu") -> cores.Lease:
    return cores.take_lease(kind, count, host_cores=host, places=places, label="test 1.0", folder=folder)


def test_leases_go_up_from_the_lowest_core(leases):
    """Four leases on four cores are four cores, lowest first."""
    held = [take(leases) for _ in range(4)]
    assert [lease.cores for lease in held] == [(0,), (1,), (2,), (3,)]


def test_a_lease_is_free_after_release(leases):
    """What is given back can be taken again; giving back twice is harmless."""
    lease = take(leases, 4)
    lease.release()
    lease.release()
    assert take(leases, 4).cores == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("count", "host", "expected"),
    [
        (2, range(4), [(0, 1), (2, 3)]),
        (2, range(5), [(0, 1), (2, 3)]),
        (4, range(4), [(0, 1, 2, 3)]),
        (2, [4, 5, 6, 7], [(4, 5), (6, 7)]),
        (2, [0, 2, 4, 5], [(4, 5)]),
        (3, range(4), [(0, 1, 2)]),
        (1, [7, 9], [(7,), (9,)]),
    ],
)
def test_ranges_are_aligned_and_contiguous(leases, count, host, expected):
    """A worker of several cores gets neighbours, from a multiple of their number on, until none are left."""
    taken = [take(leases, count, host=host) for _ in expected]
    assert [lease.cores for lease in taken] == expected
    with pytest.raises(NoCores):
        take(leases, count, host=host)


def test_half_a_range_is_not_enough(leases):
    """A range with one core taken is passed over, and its free core is not kept."""
    one = take(leases)
    pair = take(leases, 2)
    assert (one.cores, pair.cores) == ((0,), (2, 3))
    assert take(leases).cores == (1,)


def test_a_range_that_cannot_be_had_leaves_nothing_locked(leases):
    """Core 0 was free and core 1 was not: core 0 is free again."""
    one = take(leases, host=[1])
    pair = take(leases, 2)
    assert (one.cores, pair.cores) == ((1,), (2, 3))
    assert take(leases).cores == (0,)


def test_workers_spread_before_they_share(leases):
    """Second places are given out only when every core has a worker."""
    taken = [take(leases, host=range(2), places=2) for _ in range(4)]
    assert [(lease.cores, lease.place) for lease in taken] == [((0,), 0), ((1,), 0), ((0,), 1), ((1,), 1)]
    with pytest.raises(NoCores, match="each by at most 2 workers"):
        take(leases, host=range(2), places=2)


def test_kinds_do_not_contend(leases):
    """A processor and a NeuronCore of one number are two things."""
    assert take(leases, kind="cpu").cores == take(leases, kind="inf1").cores == (0,)


def test_a_killed_holder_frees_its_cores_at_once(leases):
    """kill -9 leaves nothing behind that would keep the core."""
    holder = hold(leases, 4)
    with pytest.raises(NoCores):
        take(leases)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert take(leases, 4).cores == (0, 1, 2, 3)


def test_a_forked_child_does_not_keep_a_dead_holders_cores(leases):
    """A worker that forked and died frees its cores, though the child lives on."""
    lease = take(leases)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    lease.release()
    try:
        deadline = time.monotonic() + 10
        while cores.lease_holders(leases) and time.monotonic() < deadline:
            time.sleep(0.01)  # the child has yet to run
        assert take(leases, 4).cores == (0, 1, 2, 3)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_two_processes_never_hold_one_place(leases):
    """A second process gets another core, and none when all are held."""
    holders = [hold(leases, host=2), hold(leases, host=2)]
    try:
        assert [holder.cores for holder in holders] == [[0], [1]]
        with pytest.raises(NoCores):
            take(leases, host=range(2))
    finally:
        for holder in holders:
            end(holder)


def _race(folder: str, gate, results) -> None:
    gate.wait()
    try:
        lease = take(Path(folder))
    except NoCores:
        results.put(None)
        time.sleep(1)
        return
    results.put(lease.cores[0])
    time.sleep(1)


def test_eight_processes_that_race_for_four_cores_get_four(leases):
    """Whoever comes first: four distinct cores are held, four processes are refused."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(str(leases), gate, results)) for _ in range(8)]
    for racer in racers:
        racer.start()
    gate.set()
    got = [results.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join()
    assert sorted(core for core in got if core is not None) == [0, 1, 2, 3]
    assert got.count(None) == 4


def test_the_message_names_who_holds_what(leases):
    """Whoever is refused reads the process to stop, and how many cores there are."""
    holder = hold(leases, 4)
    try:
        with pytest.raises(NoCores) as caught:
            take(leases, 2)
    finally:
        end(holder)
    assert f"core 0 by pid {holder.pid} (holder 1.0)" in str(caught.value)
    assert "no 2 contiguous free core(s) of kind cpu: this host has 4 (0, 1, 2, 3)" in str(caught.value)
    assert caught.value.retryable


def test_holders_are_listed_with_what_they_hold(leases):
    """The list has the holder's process, model and time, and nothing once it has gone."""
    lease = take(leases, 2)
    listed = cores.lease_holders(leases)
    assert [(each.kind, each.core, each.place, each.pid, each.label) for each in listed] == [
        ("cpu", core, 0, os.getpid(), "test 1.0") for core in (0, 1)
    ]
    assert abs(listed[0].since - time.time()) < 60
    lease.release()
    assert cores.lease_holders(leases) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b'"x"',
        b"[" * 4096,
        b'{"pid": 1}' * 999,
        HOLDER % b'"x"',
        HOLDER % b"1e999",
    ],
)
def test_garbage_in_a_lock_file_hides_nothing(leases, content):
    """A held core stays held and listed, whatever stands in its file."""
    lease = take(leases, host=[0])
    (leases / "cpu-0-0.lock").write_bytes(content)
    assert [(each.kind, each.core) for each in cores.lease_holders(leases)] == [("cpu", 0)]
    with pytest.raises(NoCores):
        take(leases, host=[0])
    lease.release()


def test_a_stale_file_is_no_lease(leases):
    """A file that names a process, of whatever user, holds nothing without the lock."""
    (leases / "cpu-0-0.lock").write_text(json.dumps({"pid": 1, "label": "long gone"}))
    (leases / "cpu-0-0.lock").chmod(0o666)
    assert cores.lease_holders(leases) == []
    assert take(leases).cores == (0,)


def test_files_of_another_kind_in_the_folder_are_tolerated(leases):
    """What else lies in the folder does not stop a worker."""
    for name in ("README", "cpu-x-y.lock", "a-b.lock"):
        (leases / name).write_text("hello")
    with (leases / "cpu-x-y.lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        lease = take(leases)
        assert [each.core for each in cores.lease_holders(leases)] == [0]
    lease.release()


def test_a_link_is_not_followed(leases, tmp_path):
    """Nobody can make a worker write over another file through the shared folder."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (leases / "cpu-0-0.lock").symlink_to(victim)
    with pytest.raises(NoCores, match=r"cpu-0-0\.lock cannot be opened"):
        take(leases)
    assert victim.read_text() == "precious"


def test_the_folder_is_open_to_every_user_and_safe(tmp_path, monkeypatch):
    """Like /tmp: everyone may add, nobody may remove another's; a strict umask does not change that."""
    monkeypatch.setenv(cores.LEASE_FOLDER_VARIABLE, str(tmp_path / "new" / "leases"))
    mask = os.umask(0o077)
    try:
        folder = cores.lease_folder()
        take(folder)
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert (folder / "cpu-0-0.lock").stat().st_mode & 0o777 == 0o666


def test_a_process_is_bound_with_all_its_threads():
    """Threads that a library started before the lease are bound too."""
    first = cores.host_cpus()[:1]
    script = (
        "import threading, os, time; from handlers import cores\n"
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        f"cores.bind_process({first})\n"
        "print([sorted(os.sched_getaffinity(int(t))) for t in os.listdir('/proc/self/task')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([first, first])
