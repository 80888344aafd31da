"""Which sockets a process listens on, and which addresses of this machine reach them."""

import os
import socket

from serving.exposure_local import Listener, examine_own, find_own_listeners, find_reachable
from tests.exposed import outside_address
from tests.ports import find_free_ports


def test_finds_the_sockets_of_a_process() -> None:
    """With the address they are bound to; connections are none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            found = [each for each in find_own_listeners(os.getpid()) if each.port == port]
    assert found == [Listener("tcp", "127.0.0.1", port, os.getpid())]


def test_finds_what_is_reached_from_another_address() -> None:
    """A listener on every address is, one on the loopback is not."""
    outside = outside_address()
    with socket.create_server(("0.0.0.0", 0)) as wide, socket.create_server(("127.0.0.1", 0)) as narrow:
        ports = [wide.getsockname()[1], narrow.getsockname()[1]]
        assert find_reachable(ports, [outside]) == [(outside, ports[0])]


def test_a_port_without_a_server_of_ours_has_nothing_to_find() -> None:
    """The doctor says nothing about others' servers there."""
    assert examine_own(find_free_ports(1)[0]) == []
