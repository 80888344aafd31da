"""The table of starts: medians of each step, and ratios of starts that were made in turn."""

import socket
import threading
import time

import pytest

from benchmarking import start
from benchmarking.start import Timeline, format_table
from serving.errors import ServerError
from tests.ports import find_free_ports, find_port_row


def make_timeline(answer: float) -> Timeline:
    """Return a start whose answer came after so many seconds."""
    return Timeline(0.5, 0.4, answer - 0.4, answer - 0.1, answer, 1.0, 1.5, 3.0)


def test_the_table_has_medians_and_ratios() -> None:
    """The first way over the last, turn by turn."""
    turns = {"a": [make_timeline(each) for each in (2.0, 3.0, 9.0)], "b": [make_timeline(4.0)] * 3}
    rows = {line.split(" | ")[0]: line for line in format_table(turns).splitlines()}
    assert rows["| answer"] == "| answer | 3.00 (2.00-9.00) | 4.00 (4.00-4.00) | 0.75 (0.50-2.25) |"


def test_a_port_that_begins_to_listen_is_noticed() -> None:
    """With the seconds since the start."""
    port, heard = find_free_ports(1)[0], list[float]()
    thread = threading.Thread(target=start._listen, args=(port, heard, time.monotonic()))
    thread.start()
    with socket.create_server(("127.0.0.1", port)):
        thread.join(10)
    assert len(heard) == 1


def test_a_worker_that_cannot_be_added_is_an_error() -> None:
    """With what was said, or that nobody was there."""
    with pytest.raises(ServerError, match="adding a worker: ConnectionError"):
        start.add_worker(find_port_row(2), "tiny", 2)
