"""From one TorchServe row to the items in it: raw bodies, form fields, JSON with base64, KServe v1 and v2.

Works the same whether TorchServe has parsed a body already (its default) or hands over bytes
(``decode_input_request=false``, which the kit's ``config.properties`` sets).
"""

import base64
import binascii
import json
from types import MappingProxyType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from handlers.errors import BadRequest, TooLarge

# How an answer has to be wrapped for the client that asked in this form.
PLAIN = "plain"  # one item; its answer as it is
LIST = "list"  # a list of items; a list of answers
INSTANCES = "instances"  # KServe v1: {"instances": [...]} -> {"predictions": [...]}
TENSORS = "tensors"  # KServe v2: {"inputs": [...]} -> {"outputs": [...]}

PARAMETERS = "parameters"  # key of what a client sets beside its items, as in KServe v2
# Names under which clients wrap a lone item in JSON; TorchServe's own examples use the first two.
_ITEM_KEYS = ("data", "body", "b64", "image_bytes", "image", "bytes", "text")
_BODY_FIELDS = ("data", "body")
_MOST_WRAPPINGS = 16  # objects around a lone item; {"data": {"b64": ...}} has two
# A request that holds more items than this would keep its worker from every other client for seconds.
MOST_ITEMS = 128


class Payload(NamedTuple):
    """What one client sent: items, and the form in which it wants its answer."""

    items: List[Any]  # bytes of a file each, or what JSON holds for a handler that does not take files
    form: str = PLAIN
    request_id: Optional[str] = None  # the "id" of a KServe v2 request, sent back with the answer
    parameters: Mapping[str, Any] = MappingProxyType({})  # set by the client, by name: top_k, form...
    accept: str = "application/json"  # type of content that the client wants


class Body(NamedTuple):
    """A request's body, and the form fields beside it."""

    value: Any  # bytes, or what its JSON holds
    content_type: str  # lower case; "" where the client gave none
    fields: Mapping[str, str]  # of a form, without the one that holds the body


class Encoded(NamedTuple):
    """An answer that is sent as it is."""

    content_type: str
    body: bytes


def read_payload(row: Mapping[str, Any], content_types: Mapping[str, str], known: Sequence[str] = ()) -> Payload:
    """Return the items in a row; ``content_types`` gives the type of each of its fields by lower-case name, if known.

    ``known`` are the names of the parameters that a client may set. Raises ``BadRequest`` or ``TooLarge`` that tells
    the client what to send instead.
    """
    body = read_body(row, content_types, known)
    parameters = pick_parameters(body.fields, known)
    if not isinstance(body.value, bytes):
        return read_json_items(body.value, _read_item, known, parameters)
    if body.content_type.startswith("text/") and body.value:
        return Payload([_decode_text(body.value)], parameters=parameters)
    if not body.value:
        raise BadRequest("the request has an empty body; send a file, for example with: curl -T FILE URL")
    return Payload([body.value], parameters=parameters)


def read_body(row: Mapping[str, Any], content_types: Mapping[str, str], known: Sequence[str] = ()) -> Body:
    """Return what a row holds, JSON parsed; ``known`` are fields that are never the body.

    The body is the field ``data`` or ``body``, or the only one that is left. Raises ``BadRequest``.
    """
    name = _choose_field(row, known)
    value, kind = row[name], content_types.get(name.lower(), "")
    others = row if len(row) > 1 else ()
    fields = {other: read_field(row[other]) for other in others if other != name and other in known}
    if isinstance(value, str) and "json" not in kind:
        # A text that TorchServe has decoded is read like one it has not.
        value, kind = value.encode("utf-8", "surrogatepass"), kind or "text/plain"
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        if value and _looks_like_json(value, kind):
            value = _parse_json(value)
    return Body(value, kind, fields)


def read_field(value: Any) -> str:
    """Return a form field's value as text; raise ``BadRequest`` where it is none."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except (UnicodeDecodeError, TypeError, ValueError) as exc:
        raise BadRequest("a field of the form is not text in UTF-8") from exc


def read_json_items(
    value: Any,
    read_item: Callable[[Any], Any],
    known: Sequence[str] = (),
    parameters: Mapping[str, Any] = {},
    *,
    read_tensors: Optional[Callable[[List[Any]], List[Any]]] = None,
    lists: bool = False,
) -> Payload:
    """Return the items in a JSON body: KServe v1 (``instances``), v2 (``inputs``), or an item by itself.

    ``read_item`` makes an item of what JSON holds; ``read_tensors`` the items of v2's list of tensors, by default of
    one BYTES tensor with an item in each element; with ``lists`` a bare list holds an item in each element.
    """
    if isinstance(value, dict) and isinstance(value.get("inputs"), list):
        items = (read_tensors or _split_bytes_tensor)(value["inputs"])
        check_count(len(items), "inputs")
        read = items if read_tensors else [read_item(each) for each in items]
        identifier, more = value.get("id"), value.get(PARAMETERS)
        # Other servers' parameters come along here (a codec's, say), so that unknown ones are no fault.
        mine = {name: each for name, each in (more if isinstance(more, dict) else {}).items() if name in known}
        return Payload(read, TENSORS, identifier if isinstance(identifier, str) else None, {**parameters, **mine})
    if isinstance(value, dict) and PARAMETERS in value and len(value) > 1:
        more = value[PARAMETERS]
        if not isinstance(more, dict):
            raise BadRequest(f'\'{PARAMETERS}\' is {describe(more)}, expected an object such as {{"form": "raw"}}')
        parameters = {**parameters, **pick_parameters(more, known, strict=True)}
        value = {name: each for name, each in value.items() if name != PARAMETERS}
    if isinstance(value, dict) and "instances" in value:
        items = list_of(value, "instances")
        return Payload([read_item(each) for each in items], INSTANCES, parameters=parameters)
    if lists and isinstance(value, list):
        check_count(len(value), "the list")
        return Payload([read_item(each) for each in value], LIST, parameters=parameters)
    return Payload([read_item(value)], parameters=parameters)


def pick_parameters(given: Mapping[str, Any], known: Sequence[str], *, strict: bool = False) -> Dict[str, Any]:
    """Return those of the given parameters that are known; with ``strict`` raise ``BadRequest`` for any other."""
    if not given:
        return {}
    unknown = [name for name in given if name not in known]
    if strict and unknown:
        raise BadRequest(
            f"unknown parameter(s) {shorten(', '.join(map(str, unknown)))}; this model takes: {', '.join(known)}"
        )
    return {name: value for name, value in given.items() if name in known}


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


def list_of(value: Dict[str, Any], key: str) -> List[Any]:
    """Return the list under ``key``; raise ``BadRequest`` where there is none, ``TooLarge`` where it is too long."""
    items = value.get(key)
    if not isinstance(items, list) or not items:
        raise BadRequest(f"'{key}' is {describe(items)}, expected a list with at least one item")
    check_count(len(items), f"'{key}'")
    return items


def check_count(count: int, what: str) -> None:
    """Raise ``BadRequest`` for no items, ``TooLarge`` for more than a request may hold."""
    if count == 0:
        raise BadRequest(f"{what} is empty, expected at least one item")
    if count > MOST_ITEMS:
        raise TooLarge(f"{what} has {count} items, at most {MOST_ITEMS} are taken in one request; send several")


def describe(value: Any) -> str:
    """Return what a JSON value is, for a message."""
    if isinstance(value, dict):
        return f"an object with the keys {shorten(', '.join(map(str, value)) or '(none)')}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"{type(value).__name__} {shorten(repr(value))}"


def shorten(text: str) -> str:
    """Return a text of at most 80 characters."""
    return text if len(text) <= 80 else text[:77] + "..."


def _choose_field(row: Mapping[str, Any], known: Sequence[str]) -> str:
    for name in _BODY_FIELDS:
        if name in row:
            return name
    left = [name for name in row if name not in known] or list(row)
    if len(left) == 1:
        return left[0]
    if not left:
        raise BadRequest(
            "the request has no body, or was sent as a form without fields; send a file (curl -T FILE URL) or JSON "
            "(curl -H 'Content-Type: application/json' -d '{...}' URL)"
        )
    raise BadRequest(f"the form has {len(left)} fields ({shorten(', '.join(left))}); send one, or name it 'data'")


def _decode_text(value: bytes) -> bytes:
    """Read a text, which holds a file in base64; what is declared a text and is none is taken for the file itself."""
    try:
        return decode_base64(value.decode("utf-8"))
    except UnicodeDecodeError:
        return value


def _looks_like_json(value: bytes, content_type: str) -> bool:
    # No picture, sound or archive format begins with a bracket, so a client that forgot the type is understood too.
    return "json" in content_type or value[:64].lstrip()[:1] in (b"{", b"[")


def _parse_json(value: bytes) -> Any:
    try:
        return json.loads(value.decode("utf-8"))
    except RecursionError as exc:
        raise BadRequest("the JSON is nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(f"the body is not valid JSON: {shorten(str(exc))}") from exc


def _split_bytes_tensor(inputs: List[Any]) -> List[Any]:
    """Return the elements of a KServe v2 request's only tensor, of datatype BYTES: one item each."""
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"'inputs' has {len(inputs)} element(s), expected one tensor object of datatype BYTES")
    tensor = inputs[0]
    if tensor.get("datatype") != "BYTES":
        raise BadRequest(f"input datatype is {shorten(repr(tensor.get('datatype')))}, expected BYTES (texts)")
    return list_of(tensor, "data")


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
        f"the JSON holds {describe(value)} where an item was expected; send "
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
