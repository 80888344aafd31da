"""The serving half's branches of ``handlers.errors.KitError``.

KitError
└── ServerError             a server cannot be started, stopped or found
    ├── JavaMissing         there is no Java 11 or newer
    ├── PortInUse           something listens on a port that the server needs
    ├── NoRoom               the host has too few free cores for the workers
    ├── NoSpace             a folder has too little space
    ├── ServerRuns          a server of ours runs on that port, with something else
    └── NotReady            the server started, and the model did not become ready
"""

from handlers.errors import KitError


class ServerError(KitError):
    """A server cannot be started, stopped or found."""


class JavaMissing(ServerError):
    """There is no Java 11 or newer."""


class PortInUse(ServerError):
    """Something listens on a port that the server needs."""


class NoRoom(ServerError):
    """The host has too few free cores for the workers."""


class NoSpace(ServerError):
    """A folder has too little space."""


class ServerRuns(ServerError):
    """A server of ours runs on that port, with something else."""


class NotReady(ServerError):
    """The server started, and the model did not become ready."""
