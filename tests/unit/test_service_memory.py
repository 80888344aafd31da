"""What a worker keeps of the requests that it refuses: nothing."""

import gc
import weakref
from pathlib import Path

import pytest

from handlers.service import Service
from tests.fakes import make_context, make_picture


class Body(bytearray):
    """A request's body that can be watched."""


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "image/png"),
        (b"hello", "image/png"),
        (make_picture()[:40], "image/png"),
        (b'{"data": ', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"instances": ["aGVsbG8=", "aGVsbG8="]}', "application/json"),
    ],
    ids=["empty", "text", "cut picture", "broken JSON", "deep JSON", "instances that are no pictures"],
)
def test_a_refused_request_is_forgotten_at_once(tiny_folder: Path, content: bytes, content_type: str) -> None:
    """Its body is free when the answer is given, without waiting for a garbage collection."""
    service = Service(tiny_folder)
    service.initialize()
    body = Body(content)
    watched = weakref.ref(body)
    context = make_context(tiny_folder, [{"content-type": content_type}])
    gc.disable()
    try:
        service.handle([{"body": body}], context)
        del body
        assert context.statuses[0][0] in (400, 415)
        assert watched() is None
    finally:
        gc.enable()
        service.worker.lease.release()
