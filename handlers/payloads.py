"""From one TorchServe row to the items in it: raw bodies, multipart fields, JSON with base64, KServe v1 and v2.

Works the same whether TorchServe has parsed a body already (its default) or hands over bytes
(``decode_input_request=false``, which the kit's ``config.properties`` sets).
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional

from handlers.errors import BadRequest, TooLarge

# How an answer has to be wrapped for the client that asked in this form.
PLAIN = "plain"  # one item; its answer as it is
INSTANCES = "instances"  # KServe v1: {"instances": [...]} -> {"predictions": [...]}
TENSORS = "tensors"  # KServe v2: {"inputs": [...]} -> {"outputs": [...]}

# Names under which clients wrap a lone item in JSON; TorchServe's own examples use the first two.
_ITEM_KEYS = ("data", "body", "b64", "image_bytes", "image", "bytes", "text")
_MOST_WRAPPINGS = 16  # objects around a lone item; {"data": {"b64": ...}} has two
# A request that holds more items than this would keep its worker from every other client for seconds.
MOST_ITEMS = 128


@dataclass(frozen=True)
class Payload:
    """What one client sent: items, and the form in which it wants its answer."""

    items: List[Any]  # bytes of a file each, or what JSON holds for a handler that does not take files
    form: str = PLAIN
    request_id: Optional[str] = None  # the "id" of a KServe v2 request, sent back with the answer


def read_payload(row: Mapping[str, Any], content_types: Mapping[str, str]) -> Payload:
    """Return the items in a row; ``content_types`` gives the type of each of its fields by lower-case name, if known.

    Raises ``BadRequest`` or ``TooLarge`` that tells the client what to send instead.
    """
    name = _choose_field(row)
    value, kind = row[name], content_types.get(name.lower(), "")
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        if value and not _looks_like_json(value, kind) and not kind.startswith("text/"):
            return Payload([value])
    elif isinstance(value, str) and "json" not in kind:
        value = value.encode("utf-8", "surrogatepass")  # a text that TorchServe has decoded is read like one it has not
    else:
        return _read_json(value)
    if not value:
        raise BadRequest("the request has an empty body; send a file, for example with: curl -T FILE URL")
    return _read_json(_parse_json(value)) if _looks_like_json(value, kind) else _read_text(value)


def decode_base64(text: str) -> bytes:
    """Return the bytes in a base64 text or data URL, standard or URL-safe; raise ``BadRequest`` where it is neither."""
    if text.startswith("data:") and "," in text[:200]:
        text = text.partition(",")[2]
    packed = "".join(text.split()).replace("-", "+").replace("_", "/")
    packed += "=" * (-len(packed) % 4)
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(f"a text of {len(text)} characters is not base64 ({exc}); send the file in base64") from exc


def _choose_field(row: Mapping[str, Any]) -> str:
    for name in ("data", "body"):
        if name in row:
            return name
    if len(row) == 1:
        return next(iter(row))
    if not row:
        raise BadRequest(
            "the request has no body, or was sent as a form without fields; send a file (curl -T FILE URL) or JSON "
            "(curl -H 'Content-Type: application/json' -d '{...}' URL)"
        )
    raise BadRequest(f"the form has {len(row)} fields ({_shorten(', '.join(row))}); send one, or name it 'data'")


def _read_text(value: bytes) -> Payload:
    """Read a text, which holds a file in base64; what is declared a text and is none is taken for the file itself."""
    try:
        return Payload([decode_base64(value.decode("utf-8"))])
    except UnicodeDecodeError:
        return Payload([value])


def _looks_like_json(value: bytes, content_type: str) -> bool:
    # No picture, sound or archive format begins with a bracket, so a client that forgot the type is understood too.
    return "json" in content_type or value[:64].lstrip()[:1] in (b"{", b"[")


def _parse_json(value: bytes) -> Any:
    try:
        return json.loads(value.decode("utf-8"))
    except RecursionError as exc:
        raise BadRequest("the JSON is nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(f"the body is not valid JSON: {_shorten(str(exc))}") from exc


def _read_json(value: Any) -> Payload:
    if isinstance(value, dict) and "instances" in value:
        return Payload([_read_item(each) for each in _list_of(value, "instances")], INSTANCES)
    if isinstance(value, dict) and isinstance(value.get("inputs"), list):
        return _read_tensors(value)
    return Payload([_read_item(value)])


def _read_tensors(value: Dict[str, Any]) -> Payload:
    """Read a KServe v2 request whose input is one BYTES tensor of base64 texts, one element for each item."""
    inputs = value["inputs"]
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"'inputs' has {len(inputs)} element(s), expected one tensor object of datatype BYTES")
    tensor = inputs[0]
    if tensor.get("datatype") != "BYTES":
        raise BadRequest(f"input datatype is {_shorten(repr(tensor.get('datatype')))}, expected BYTES (base64 texts)")
    items = [_read_item(each) for each in _list_of(tensor, "data")]
    identifier = value.get("id")
    return Payload(items, TENSORS, identifier if isinstance(identifier, str) else None)


def _list_of(value: Dict[str, Any], key: str) -> List[Any]:
    items = value.get(key)
    if not isinstance(items, list) or not items:
        raise BadRequest(f"'{key}' is {_describe(items)}, expected a list with at least one item")
    if len(items) > MOST_ITEMS:
        raise TooLarge(f"'{key}' has {len(items)} items, at most {MOST_ITEMS} are taken in one request; send several")
    return items


def _read_item(value: Any) -> bytes:
    # A loop, because JSON that Python can just parse would exceed its recursion limit in a recursion of ours.
    for _ in range(_MOST_WRAPPINGS):
        if isinstance(value, str):
            return decode_base64(value)
        key = _item_key(value)
        if key is None:
            break
        value = value[key]
    raise BadRequest(
        f"the JSON holds {_describe(value)} where an item was expected; send "
        '{"data": "<base64>"} or {"instances": [{"b64": "<base64>"}]}'
    )


def _item_key(value: Any) -> Optional[str]:
    """Return the key under which an object holds its item, or None where that cannot be told."""
    if not isinstance(value, dict):
        return None
    known = [key for key in _ITEM_KEYS if key in value]
    if known:
        return known[0]
    return next(iter(value)) if len(value) == 1 else None


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {_shorten(', '.join(map(str, value)) or '(none)')}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"{type(value).__name__} {_shorten(repr(value))}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
