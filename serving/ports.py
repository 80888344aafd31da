"""The ports of a server, and who sits on them."""

import socket
import time
from dataclasses import dataclass

import psutil

from serving.errors import PortInUse

DEFAULT = 8080
_ENDING = 3.0  # seconds in which a process that is ending lets go of its ports


@dataclass(frozen=True)
class Ports:
    """All ports of one server; 0 is any that is free."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int

    @classmethod
    def starting_at(cls, port: int) -> "Ports":
        """Return the three addresses from ``port`` on; gRPC keeps its own ports only beside the default one."""
        grpc = (7070, 7071) if port == DEFAULT else (0, 0)
        return cls(port, port + 1, port + 2, *grpc)


def ensure_free(ports: Ports) -> None:
    """Raise ``PortInUse`` that names every port that is taken, and by whom."""
    wanted = [ports.inference, ports.management, ports.metrics, ports.grpc_inference, ports.grpc_management]
    deadline = time.monotonic() + _ENDING  # for all of them together
    taken = [port for port in wanted if port and not becomes_free(port, deadline - time.monotonic())]
    if taken:
        listed = ", ".join(f"{port} ({describe_listener(port)})" for port in taken)
        raise PortInUse(f"port in use: {listed}. Stop what listens there, or choose others: make serve PORT=18080 ...")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of the loopback address."""
    with socket.socket() as probe:
        # As Java does: a port whose last connections are still being closed can be taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
            return True
        except OSError:
            return False


def becomes_free(port: int, seconds: float = _ENDING) -> bool:
    """Whether a port is free, or is let go of within some seconds by a process that is ending.

    A JVM's last threads, and with them its sockets, can outlive the moment in which it counts as ended; nobody is then
    seen to listen. Who is seen to listen is not waited for.
    """
    deadline = time.monotonic() + seconds
    while not is_free(port):
        if _find_listener(port) or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def describe_listener(port: int) -> str:
    """Return who listens on a port, as far as this user may know."""
    return _find_listener(port) or "by a process of another user, or one that cannot be told"


def _find_listener(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                return f"process {connection.pid}, {psutil.Process(connection.pid).name()}"
    except psutil.Error:
        pass
    return ""
