"""Every error of the kit, in one tree.

    KitError                    anything the kit itself refuses or finds wrong
    ├── RequestError            a client's request cannot be answered; carries an HTTP status
    │   ├── BadRequest          400: it is not what the model takes
    │   ├── TooLarge            413: too many bytes, pixels or instances
    │   ├── NotAcceptable       406: the client accepts no type of content that is offered
    │   ├── UnsupportedType     415: a type of content that the handler does not read
    │   └── NotOffered          501: a kind of request that this model does not offer
    ├── ModelError              500: the model ran, and its answer cannot be given out
    └── CannotServe             a worker cannot serve; says why and whether trying again can help
        ├── BrokenArchive       a file of the archive is missing, added, changed or unreadable
        ├── NoTarget            none of the archive's variants can run on this host
        ├── NoCores             no core, or no contiguous range of cores, is free
        ├── ModelUnusable       the model does not load, or does not run at a shape it was compiled for
        └── GoldenMismatch      the model's answer to a golden request is not the expected one

The build half adds its own branches of ``KitError`` in ``tracing/errors.py``.
"""


class KitError(Exception):
    """The kit refuses or found something wrong; the message says what, where, what was expected and what to do."""


class RequestError(KitError):
    """A client's request cannot be answered."""

    status = 400


class BadRequest(RequestError):
    """The request is not what the model takes."""

    status = 400


class TooLarge(RequestError):
    """The request has too many bytes, pixels or instances."""

    status = 413


class NotAcceptable(RequestError):
    """The client accepts no type of content that this model offers."""

    status = 406


class UnsupportedType(RequestError):
    """The request's content is of a type that the handler does not read."""

    status = 415


class NotOffered(RequestError):
    """The model does not offer this kind of request."""

    status = 501


class ModelError(KitError):
    """The model ran, and its answer cannot be given out."""

    status = 500


class CannotServe(KitError):
    """A worker cannot serve now."""

    # Whether the cause can go away while the worker waits, so that trying again makes sense.
    retryable = False


class BrokenArchive(CannotServe):
    """A file of the archive is missing, added, changed or unreadable."""


class NoTarget(CannotServe):
    """None of the archive's variants can run on this host."""


class NoCores(CannotServe):
    """No core, or no contiguous range of cores, is free."""

    retryable = True


class ModelUnusable(CannotServe):
    """The model does not load, or does not run at a shape it was compiled for."""


class GoldenMismatch(CannotServe):
    """The model's answer to a golden request is not the expected one."""


def name_cause(exc: BaseException) -> str:
    """Return an exception's kind and the last line of its message, for a message of ours."""
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[-1].strip() if lines else ''}"[:400]
