"""Request bodies as clients send them: forms of a good picture, and malformed ones by their fault with their status."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

# Any: keyword arguments of requests.post.
Request = dict[str, Any]

JSON = {"Content-Type": "application/json"}
DEEP = 100_000


def as_base64(body: bytes) -> str:
    """Return bytes in standard base64."""
    return base64.b64encode(body).decode()


def nested_objects(depth: int) -> bytes:
    """Return JSON of objects in objects."""
    return b'{"a":' * depth + b"1" + b"}" * depth


def as_json(value: object, **headers: str) -> Request:
    """Return a request with a JSON body."""
    return {"data": json.dumps(value).encode(), "headers": {**JSON, **headers}}


def _typed(body: bytes, content_type: str) -> Request:
    return {"data": body, "headers": {"Content-Type": content_type}}


def _url_safe(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


# What is answered like the picture itself.
FORMS: dict[str, Callable[[bytes], Request]] = {
    "raw": lambda body: {"data": body},
    "raw image/png": lambda body: _typed(body, "image/png"),
    "raw octet-stream": lambda body: _typed(body, "application/octet-stream"),
    "raw of a wrong picture type": lambda body: _typed(body, "image/jpeg"),
    "raw in chunks": lambda body: {"data": [body[:100], body[100:]]},
    "multipart data": lambda body: {"files": {"data": ("a.png", body, "image/png")}},
    "multipart body": lambda body: {"files": {"body": ("a.png", body, "image/png")}},
    "multipart picture": lambda body: {"files": {"picture": ("a.png", body, "image/png")}},
    "multipart of a non-ASCII name": lambda body: {"files": {"bild_ä": ("ä.png", body, "image/png")}},
    "multipart without a type": lambda body: {"files": {"data": ("a", body)}},
    "multipart data beside another field": lambda body: {"files": {"data": ("a", body), "note": (None, b"hello")}},
    "multipart JSON": lambda body: {"files": {"data": ("a", json.dumps(as_base64(body)), "application/json")}},
    "JSON data": lambda body: as_json({"data": as_base64(body)}),
    "JSON body": lambda body: as_json({"body": as_base64(body)}),
    "JSON b64": lambda body: as_json({"b64": as_base64(body)}),
    "JSON nested b64": lambda body: as_json({"data": {"b64": as_base64(body)}}),
    "JSON any key": lambda body: as_json({"cat": as_base64(body)}),
    "JSON text": lambda body: as_json(as_base64(body)),
    "JSON data URL": lambda body: as_json({"data": "data:image/png;base64," + as_base64(body)}),
    "JSON URL-safe base64": lambda body: as_json({"data": _url_safe(body)}),
    "JSON wrapped base64": lambda body: as_json({"data": base64.encodebytes(body).decode()}),
    "JSON with charset": lambda body: as_json({"data": as_base64(body)}, **_charset()),
    "JSON without a type": lambda body: {"data": json.dumps({"data": as_base64(body)}).encode()},
    "JSON as octet-stream": lambda body: _typed(
        json.dumps({"data": as_base64(body)}).encode(), "application/octet-stream"
    ),
}


def _charset() -> dict[str, str]:
    return {"Content-Type": "application/json; charset=utf-8"}


def picture(size: tuple[int, int] = (16, 16), kind: str = "PNG") -> bytes:
    """Return a picture file of noise-free grey."""
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 90, 90)).save(stream, kind)
    return stream.getvalue()


def bomb_png(side: int = 30_000) -> bytes:
    """Return a small, valid PNG that decodes to ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    lines = zlib.compressobj()
    row = b"\0" * (1 + (side + 7) // 8)
    packed = b"".join(lines.compress(row) for _ in range(side)) + lines.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _multipart(body: bytes, boundary: str = "b") -> Request:
    return _typed(body, f"multipart/form-data; boundary={boundary}")


def sent(request: Request) -> Request:
    """Return a request as arguments of ``Server.predict``; a list of bytes is sent in chunks."""
    arguments = dict(request)
    if "data" in arguments:
        body = arguments.pop("data")
        arguments["body"] = iter(body) if isinstance(body, list) else body
    return arguments


def malformed() -> dict[str, tuple[int, Request]]:
    """Return every malformed request by its fault, with the status it deserves.

    The status 4 stands for 400 or 415: TorchServe hands over a text as a text, to be read as base64, or as bytes, to be
    read as a picture, as ``decode_input_request`` says.
    """
    png, jpeg = picture(), picture(kind="JPEG")
    nested = b"[" * DEEP + b"]" * DEEP
    objects = {depth: nested_objects(depth) for depth in (500, 5000, DEEP)}
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1]}
    return {
        "empty": (400, {"data": b""}),
        "empty JSON": (400, _typed(b"", "application/json")),
        "empty text": (4, _typed(b"", "text/plain")),
        "one blank": (415, {"data": b" "}),
        "null bytes": (415, {"data": b"\0" * 1000}),
        "null bytes as JSON": (400, _typed(b"\0" * 1000, "application/json")),
        "null bytes as text": (4, _typed(b"\0" * 1000, "text/plain")),
        "broken JSON": (400, _typed(b'{"data": ', "application/json")),
        "broken JSON without a type": (400, {"data": b'{"data": "abc'}),
        "two JSON values": (400, _typed(b"{} {}", "application/json")),
        "JSON not UTF-8": (400, _typed(b'{"data": "\xff\xfe"}', "application/json")),
        "JSON in UTF-16": (400, _typed('{"data": "abcd"}'.encode("utf-16"), "application/json")),
        "JSON null": (400, as_json(None)),
        "JSON true": (400, as_json(True)),
        "JSON number": (400, as_json(5)),
        "JSON number of 5000 digits": (400, _typed(b"1" * 5000, "application/json")),
        "JSON infinity": (400, _typed(b"1e999", "application/json")),
        "JSON NaN": (400, _typed(b"NaN", "application/json")),
        "JSON empty text": (415, as_json("")),
        "JSON text of blanks": (415, as_json("   ")),
        "JSON list": (400, as_json([1, 2])),
        "JSON empty list": (400, as_json([])),
        "JSON empty object": (400, as_json({})),
        "JSON item is a number": (400, as_json({"data": 5})),
        "JSON item is an object": (400, as_json({"data": {}})),
        "JSON item is a list": (400, as_json({"data": [as_base64(png)]})),
        "JSON two unknown keys": (400, as_json({"a": as_base64(png), "b": "x"})),
        "JSON keys of lone surrogates": (400, _typed(b'{"\\ud800": 1, "\\udfff": 2}', "application/json")),
        "instances null": (400, as_json({"instances": None})),
        "instances empty": (400, as_json({"instances": []})),
        "instances a number": (400, as_json({"instances": 5})),
        "instances of numbers": (400, as_json({"instances": [1, 2]})),
        "instances with one bad": (415, as_json({"instances": [as_base64(png), as_base64(b"no picture")]})),
        "instances too many": (413, as_json({"instances": [as_base64(png)] * 129})),
        "inputs empty": (400, as_json({"inputs": []})),
        "inputs of numbers": (400, as_json({"inputs": [5]})),
        "inputs of a wrong type": (400, as_json({"inputs": [{**tensor, "datatype": "FP32", "data": [1.0]}]})),
        "inputs without data": (400, as_json({"inputs": [tensor]})),
        "inputs of broken base64": (400, as_json({"inputs": [{**tensor, "data": ["?"]}]})),
        "deep list": (400, _typed(nested, "application/json")),
        **{f"objects {depth} deep": (400, _typed(body, "application/json")) for depth, body in objects.items()},
        **{f"objects {depth} deep, no type": (400, {"data": body}) for depth, body in objects.items()},
        "base64 with strangers": (400, as_json({"data": "!!!!"})),
        "base64 of a wrong length": (400, as_json({"data": "A"})),
        "base64 not ASCII": (400, as_json({"data": "äöü"})),
        "base64 a lone surrogate": (400, _typed(b'{"data": "\\ud800"}', "application/json")),
        "base64 of text": (415, as_json({"data": as_base64(b"hello")})),
        "base64 of a cut PNG": (400, as_json({"data": as_base64(png[:60])})),
        "text": (415, {"data": b"hello"}),
        "text as a picture": (415, _typed(b"hello", "image/png")),
        "picture as JSON": (400, _typed(png, "application/json")),
        "HTML": (415, {"data": b"<html><body>404</body></html>"}),
        "SVG": (415, _typed(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml")),
        "PDF": (415, _typed(b"%PDF-1.7\n", "application/pdf")),
        "TIFF": (415, _typed(picture(kind="TIFF"), "image/tiff")),
        "PNG in gzip": (415, {"data": zlib.compress(png), "headers": {"Content-Encoding": "gzip"}}),
        "PNG cut off in its header": (400, {"data": png[:20]}),
        "PNG cut off in its pixels": (400, {"data": png[:60]}),
        "PNG of the signature alone": (400, {"data": png[:8]}),
        "PNG with a changed byte": (400, {"data": png[:45] + bytes([png[45] ^ 255]) + png[46:]}),
        "PNG of no width": (400, {"data": png[:16] + b"\0\0\0\0" + png[20:]}),
        "JPEG cut off": (400, {"data": jpeg[: len(jpeg) // 2]}),
        "JPEG of the signature alone": (400, {"data": jpeg[:3]}),
        "GIF cut off": (400, {"data": picture(kind="GIF")[:14]}),
        "WebP cut off": (400, {"data": picture(kind="WEBP")[:20]}),
        "BMP cut off": (400, {"data": picture(kind="BMP")[:40]}),
        "decompression bomb": (413, {"data": bomb_png()}),
        "decompression bomb in base64": (413, as_json({"data": as_base64(bomb_png())})),
        "file of 9 MB": (413, {"data": png + b"\0" * 9_000_000}),
        "form without fields": (400, _multipart(b"--b--\r\n")),
        "form of an empty file": (400, {"files": {"data": ("a.png", b"", "image/png")}}),
        "form of two files": (400, {"files": {"left": ("a.png", png), "right": ("b.png", png)}}),
        "form of text": (415, {"files": {"data": (None, b"hello")}}),
        "urlencoded": (400, _typed(b"a=1&b=2", "application/x-www-form-urlencoded")),
        "urlencoded JSON": (400, _typed(b'{"data": "abc"}', "application/x-www-form-urlencoded")),
        "UTF-8 text": (4, _typed("Grüße".encode(), "text/plain")),
        "text not UTF-8": (415, _typed(b"\xff\xfe\xfa", "text/plain")),
        "text not UTF-8 in chunks": (415, {"data": [b"\xff", b"\xfe"], "headers": {"Content-Type": "text/plain"}}),
        "nothing in chunks": (400, {"data": []}),
        "type empty": (415, _typed(b"hello", "")),
        "type of nonsense": (415, _typed(b"hello", ";;;=,\t/")),
        "type of 4,000 characters": (415, _typed(b"hello", "image/" + "x" * 4000)),
        "type not ASCII": (415, {"data": b"hello", "headers": {"Content-Type": b"image/\xff\xfe"}}),
        "header not UTF-8": (415, {"data": b"hello", "headers": {"X-Odd": b"\xff\xfe\x80"}}),
        "header named like a field": (415, {"data": b"hello", "headers": {"body": "x", "data": "y"}}),
        "a hundred headers": (415, {"data": b"hello", "headers": {f"X-{n}": str(n) for n in range(100)}}),
    }
