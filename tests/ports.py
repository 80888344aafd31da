"""Ports for servers that need several in a row."""

import random

from serving.ports import is_free


def find_port_row(count: int = 3) -> int:
    """Return a port that is free on the loopback address with those that follow it.

    Below 32768, where the kernel takes the ports of outgoing connections from.
    """
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        if all(is_free(each) for each in range(port, port + count)):
            return port
    raise AssertionError("no free ports on this machine")
