"""Ports: which a server takes, and who sits on one that is taken."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from serving.errors import PortInUse
from serving.ports import Ports, becomes_free, describe_listener, ensure_free, is_free
from tests.ports import find_free_ports


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that this process listens on, on the loopback address or on all."""
    with socket.socket() as listener:
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_three_ports_follow_each_other() -> None:
    """Management and metrics are the next two."""
    ports = Ports.starting_at(18080)
    assert (ports.inference, ports.management, ports.metrics) == (18080, 18081, 18082)


def test_only_the_default_server_has_the_known_grpc_ports() -> None:
    """Two servers side by side do not meet at 7070."""
    assert (Ports.starting_at(8080).grpc_inference, Ports.starting_at(8080).grpc_management) == (7070, 7071)
    assert (Ports.starting_at(9090).grpc_inference, Ports.starting_at(9090).grpc_management) == (0, 0)


def test_a_taken_port_is_not_free(taken: int) -> None:
    """A listener on any address of the host is in the way."""
    assert not is_free(taken)


def test_a_port_that_nothing_listens_on_is_free() -> None:
    """Asking leaves the port as it was."""
    (port,) = find_free_ports(1)
    assert is_free(port)
    assert is_free(port)


def test_names_the_port_its_process_and_the_way_out(taken: int) -> None:
    """The error says which port, who has it, and how to choose another."""
    with pytest.raises(PortInUse, match=rf"{taken} \(process {os.getpid()}, .*make serve PORT="):
        ensure_free(Ports(taken, 0, 0, 0, 0))


def test_names_every_port_that_is_taken(taken: int) -> None:
    """One look tells all."""
    (free,) = find_free_ports(1)
    with pytest.raises(PortInUse) as caught:
        ensure_free(Ports(free, taken, free, 0, taken))
    assert str(caught.value).count(str(taken)) == 2
    assert str(free) not in str(caught.value)


def test_a_port_is_waited_for_while_its_process_ends(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JVM that counts as ended holds its port for a moment; nobody is seen to listen."""
    assert not becomes_free(taken, 60.0)  # this process is seen: no waiting
    monkeypatch.setattr("serving.ports._find_listener", lambda port: "")
    began = time.monotonic()
    assert not becomes_free(taken, 0.2)
    assert time.monotonic() - began >= 0.2
    (port,) = find_free_ports(1)
    with socket.socket() as ending:
        ending.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ending.bind(("127.0.0.1", port))
        ending.listen()
        threading.Timer(0.3, ending.close).start()
        ensure_free(Ports(port, 0, 0, 0, 0))


def test_a_listener_that_cannot_be_told_is_said_so() -> None:
    """A port without a listener of ours gets no made-up process."""
    (port,) = find_free_ports(1)
    assert "cannot be told" in describe_listener(port)
