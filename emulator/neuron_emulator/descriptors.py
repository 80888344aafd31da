"""Lock files that a forked child does not keep: their descriptors are closed in it before any of its code runs.

A lock of ``flock`` belongs to an open file, which a child of ``fork`` shares with its parent. Were the child to keep
it, the cores of a dead parent would stay taken for as long as the child lives. Programs started with ``exec`` never see
the descriptors: they are opened with ``O_CLOEXEC``.
"""

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_open: set[int] = set()
_after_fork: list[Callable[[], None]] = []
# Held while a descriptor is opened or closed and across a fork, so that a child knows every one it inherits.
_guard = threading.RLock()


def open_lock(path: Path) -> int:
    """Return a descriptor of a lock file, made if need be; raises ``OSError`` if it is a link or cannot be opened."""
    with _guard:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open.add(descriptor)
        return descriptor


def try_lock(descriptor: int) -> bool:
    """Return whether this process has the file's lock now; does not wait."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close_lock(descriptor: int) -> None:
    """Give the lock back and close the file; doing so twice is harmless."""
    with _guard:
        if descriptor in _open:
            _open.discard(descriptor)
            # Unlocked by name: a child that was forked this very moment may still share the open file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def call_in_children(function: Callable[[], None]) -> None:
    """Have ``function`` called in each forked child, once it has let go of the locks."""
    _after_fork.append(function)


def _let_go() -> None:
    # Closed only: to unlock would free the parent's cores. A program that closed every file has closed these.
    while _open:
        with suppress(OSError):
            os.close(_open.pop())
    _guard.release()
    for function in _after_fork:
        function()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_let_go)
