"""Which addresses of this machine a server of ours answers on: tried by connecting, not read from its settings."""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from serving.doctor import ERROR, OK, WARNING, Finding
from serving.exposure_asking import connect_error
from serving.runs import RunFolder, find_process

_SECONDS = 2.0  # for a connection within one machine


@dataclass(frozen=True, order=True)
class Listener:
    """A socket that waits for others."""

    protocol: str  # tcp or udp
    ip: str  # that it is bound to
    port: int
    pid: int


def find_own_listeners(pid: int) -> list[Listener]:
    """Return the sockets on which a process and its children wait for others, in order; raise ``psutil.Error``."""
    process = psutil.Process(pid)
    found: set[Listener] = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            connections = each.net_connections("inet")
        except psutil.NoSuchProcess:
            continue  # a worker that has just ended listens no more
        for connection in connections:
            tcp = connection.type == socket.SOCK_STREAM
            if connection.laddr and not connection.raddr and (not tcp or connection.status == psutil.CONN_LISTEN):
                ip, port = connection.laddr
                found.add(Listener("tcp" if tcp else "udp", ip, port, each.pid))
    return sorted(found)


def own_addresses() -> list[str]:
    """Return every IP of this machine but those of the loopback, with the interface where an IP needs it."""
    found = []
    for interface, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            ip = ipaddress.ip_address(address.address.partition("%")[0])
            if not ip.is_loopback:
                found.append(f"{ip}%{interface}" if ip.is_link_local and ip.version == 6 else str(ip))
    return sorted(set(found))


def find_reachable(ports: Iterable[int], addresses: Iterable[str]) -> list[tuple[str, int]]:
    """Return which of the ports take a connection at which of the addresses."""
    ports = sorted(set(ports))
    return [(ip, port) for ip in addresses for port in ports if not connect_error(ip, port, seconds=_SECONDS)]


def examine_own(port: int) -> list[Finding]:
    """Return what of the server on ``port`` is reached from beyond this machine; nothing if no server of ours runs."""
    state = RunFolder(port).read()
    process = find_process(state) if state is not None else None
    if process is None:
        return []
    try:
        listeners = find_own_listeners(process.pid)
    except psutil.Error as exc:
        advice = "run the doctor as the user who serves"
        return [Finding("exposure", WARNING, f"the server's sockets cannot be listed ({exc})", advice)]
    ports = sorted({each.port for each in listeners if each.protocol == "tcp"})
    if not ports:
        advice = "it may have a network of its own, as in a container: run the doctor there"
        return [
            Finding("exposure", WARNING, f"process {process.pid} has no sockets that can be seen from here", advice)
        ]
    addresses = own_addresses()
    reached = find_reachable(ports, addresses)
    wide = [each for each in listeners if each.protocol == "udp" and not ipaddress.ip_address(each.ip).is_loopback]
    if reached or wide:
        listed = ", ".join([f"{ip} port {number}" for ip, number in reached] + [f"udp {each.port}" for each in wide])
        advice = "bind every address of config.properties to 127.0.0.1; publish inference through the guard"
        return [Finding("exposure", ERROR, f"answers beyond this machine: {listed}", advice)]
    listed = ", ".join(map(str, ports))
    return [
        Finding(
            "exposure", OK, f"ports {listed} answer on the loopback address only, on none of {len(addresses)} others"
        )
    ]
