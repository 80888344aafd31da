"""Free ports for servers of tests: in a range of their own for each process that runs tests beside another."""

import os
import random
from collections.abc import Iterator

from serving.ports import is_free

# Below 32768, where the kernel takes the ports of outgoing connections from.
_FIRST, _LAST = 20_000, 32_000


def find_port_row(count: int = 3) -> int:
    """Return a port that is free on the loopback address with those that follow it."""
    for port in _candidates(count):
        if all(is_free(each) for each in range(port, port + count)):
            return port
    raise AssertionError("no free ports on this machine")


def find_free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on, none twice."""
    found: set[int] = set()
    for port in _candidates(1):
        if is_free(port):
            found.add(port)
        if len(found) == count:
            return sorted(found)
    raise AssertionError("no free ports on this machine")


def _candidates(count: int) -> Iterator[int]:
    """Yield ports that start a row of ``count``, at random, within this process's share of the range."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    share = (_LAST - _FIRST) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = _FIRST + share * int(name.removeprefix("gw"))
    for _ in range(1000):
        yield random.randrange(first, first + share - count)
