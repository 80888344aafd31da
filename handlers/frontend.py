"""The way between TorchServe's frontend and a worker, with a handful of system calls where the stock way takes dozens.

The frontend sends a batch as lengths and values. TorchServe's worker asks the socket for each of them apart, 47 times
for one request with nine headers, then copies what it has read from structure to structure, and writes a log line and a
metric line for each batch, which the frontend parses (TorchServe 0.12.0: ts/protocol/otf_message_handler.py,
ts/service.py). Here a batch is read as it comes, and its rows are made at once.

``install`` takes over in a worker only if TorchServe's release was tried and both ways agree on a sample; whatever the
reader does not expect it hands back to TorchServe's, byte by byte. ``TORCHSERVE_NEURON_STOCK_READER=1`` switches it
off.
"""

import functools
import json
import logging
import os
import struct
import sys
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

OFF_VARIABLE = "TORCHSERVE_NEURON_STOCK_READER"
RELEASES = ("0.11.0", "0.11.1", "0.12.0")  # of TorchServe, whose wire format this is
_DECODE_VARIABLE = "TS_DECODE_INPUT_REQUEST"  # set by the frontend from decode_input_request
_CHUNK = 65536  # bytes asked for at a time; a request with a small picture and ten headers has about 3,000
END = -1  # a length that ends a list
PREDICT = b"I"

# Of a request's headers those that are read in a worker (handlers.service), in lower case.
ARRIVAL_HEADER = "x-request-start"  # of a proxy in front: when the request reached it
HEADERS = ("describe", "explain", "accept", "content-type", ARRIVAL_HEADER)
_HEADER_NAMES = {name.encode(): name for name in HEADERS}
_HEADER_LENGTHS = frozenset(map(len, HEADERS))

_int = struct.Struct("!i")
_read_int = _int.unpack_from
pack_int = _int.pack


class Batch(NamedTuple):
    """What the frontend sent: one element of each list for each request."""

    ids: List[str]
    headers: List[Dict[str, Any]]  # those of HEADERS, and the content type of each field by the field's name
    rows: List[Dict[str, Any]]  # values by field: bytes, or what TorchServe decodes of them if it is told to


class _Short(Exception):
    """The rest of the message is on its way."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


class Reader:
    """Reads messages from a worker's connection; ``stock`` is TorchServe's own function for it."""

    def __init__(self, connection: Any, stock: Callable[[Any], Tuple[bytes, Any]]) -> None:
        self._connection = connection
        self._stock = stock
        self._held = b""  # received and not yet read

    def read(self) -> Tuple[bytes, Any]:
        """Return a message's command and content: for a prediction a ``Batch``, else what TorchServe's reader gives.

        Ends the process, as TorchServe does, where the frontend has closed the connection.
        """
        if not self._held:
            self._held = self._connection.recv(_CHUNK)
        if self._held[:1] != PREDICT:
            return self._stock(self)
        try:
            batch = self._read_batch()
        except (ValueError, EOFError):
            return self._stock(self)  # from the start of the message, which is still held
        return PREDICT, batch

    def recv(self, size: int) -> bytes:
        """Return at most ``size`` bytes, those that are held first: what TorchServe's reader asks of a socket."""
        if not self._held:
            self._held = self._connection.recv(size)
        part, self._held = self._held[:size], self._held[size:]
        return part

    def _read_batch(self) -> Batch:
        """Return the batch at the start of what is held, and let go of its bytes; receives what is missing of it."""
        decoded = os.environ.get(_DECODE_VARIABLE, "true") == "true"
        batch = Batch([], [], [])
        # Requests that were read are set aside, not to be copied with each part that arrives of the next.
        aside: List[bytes] = []
        at, more = 1, True
        try:
            while more:
                try:
                    at, more = _read_request(self._held, at, batch, decoded)
                except (_Short, struct.error) as exc:  # the latter where a length itself is cut off
                    aside.append(self._held[:at])
                    self._held, at = self._held[at:], 0
                    self._receive(exc.missing if isinstance(exc, _Short) else 1)
        except (ValueError, EOFError):
            self._held = b"".join([*aside, self._held])
            raise
        self._held = self._held[at:]
        return batch

    def _receive(self, missing: int) -> None:
        parts, part = [self._held], b"-"
        while missing > 0 and part:
            part = self._connection.recv(max(missing, _CHUNK))
            parts.append(part)
            missing -= len(part)
        self._held = b"".join(parts)
        if missing > 0:
            raise EOFError


def _read_request(data: bytes, at: int, batch: Batch, decoded: bool) -> Tuple[int, bool]:
    """Add the request at ``at`` to the batch; return where it ends, and whether there was one.

    Raises ``_Short`` or ``struct.error`` where ``data`` ends before the request does, ``ValueError`` for what is none.
    """
    identity, at = _read_value(data, at)
    if identity is None:
        return at, False
    headers, at = _read_headers(data, at)
    fields: Dict[str, Any] = {}
    row: Dict[str, Any] = {}
    while True:
        name, at = _read_value(data, at)
        if name is None:
            break
        kind, at = _read_value(data, at)
        value, at = _read_value(data, at)
        if kind is None or value is None:
            raise ValueError("a list ends within an element")
        key, content_type = name.decode(), kind.decode()
        fields[key] = {"content-type": content_type}
        row[key] = _decode(value, content_type) if decoded else value
    fields.update(headers)  # of equal names a header that is read here counts, as at TorchServe
    batch.ids.append(identity.decode())
    batch.headers.append(fields)
    batch.rows.append(row)
    return at, True


def _read_headers(data: bytes, at: int) -> Tuple[Dict[str, str], int]:
    """Return those of ``HEADERS`` in the list at ``at``, and where it ends; the others are stepped over."""
    headers: Dict[str, str] = {}
    while True:
        size = _read_int(data, at)[0]
        if size < 0:
            _ensure_end(size)
            return headers, at + 4
        middle = at + 4 + size
        rest = _read_int(data, middle)[0]
        if rest < 0:
            raise ValueError("a header without a value")
        name = _HEADER_NAMES.get(data[at + 4 : middle].lower()) if size in _HEADER_LENGTHS else None
        at = middle + 4 + rest
        if name is not None:
            if at > len(data):
                raise _Short(at - len(data))
            headers[name] = data[middle + 4 : at].decode()


def _read_value(data: bytes, at: int) -> Tuple[Optional[bytes], int]:
    """Return the value at ``at``, None for the end of its list, and where it ends."""
    size = _read_int(data, at)[0]
    start, at = at + 4, at + 4 + size
    if size < 0:
        _ensure_end(size)
        return None, start
    if at > len(data):
        raise _Short(at - len(data))
    return data[start:at], at


def _ensure_end(size: int) -> None:
    if size != END:
        raise ValueError(f"a length of {size}")


def _decode(value: bytes, content_type: str) -> Any:
    """Return a field's value as TorchServe decodes it: JSON and texts, and the bytes where they are none."""
    try:
        if content_type == "application/json":
            return json.loads(value.decode("utf-8"))
        return value.decode("utf-8") if content_type.startswith("text") else value
    except Exception:
        return value


def encode_answers(
    answers: Sequence[bytes], batch: Batch, responses: Sequence[Tuple[int, str, Mapping[str, str]]]
) -> bytes:
    """Return the message with the answers to a batch; ``responses`` has status, reason and headers for each of them."""
    parts = [_SUCCESS]
    for body, identity, (status, reason, headers) in zip(answers, batch.ids, responses):
        head = _encode_head(status, reason, tuple(headers.items()))
        parts += (pack_text(identity), head, pack_int(len(body)), body)
    parts.append(pack_int(END))
    return b"".join(parts)


@functools.lru_cache(maxsize=64)  # a model's answers have few kinds of heads
def _encode_head(status: int, reason: str, headers: Tuple[Tuple[str, str], ...]) -> bytes:
    kind = pack_text(dict(headers).get("content-type") or "")
    parts = [kind, pack_int(status), pack_text(reason), pack_int(len(headers))]
    for name, value in headers:
        parts += (pack_text(name), pack_text(value))
    return b"".join(parts)


def pack_text(text: str) -> bytes:
    """Return a text as the protocol has it: its length in bytes, and these."""
    data = text.encode("utf-8")
    return pack_int(len(data)) + data


_SUCCESS = pack_int(200) + pack_text("Prediction success")


def install() -> str:
    """Take over the reading and answering of this worker; return "fast", or why TorchServe's own way stays.

    Never raises. Takes effect from the next message on.
    """
    try:
        reason = _find_obstacle()
        if reason is None:
            _take_over()
        return reason or "fast"
    except (Exception, SystemExit) as exc:  # the stock way works; its reader exits where it finds nothing to read
        return f"TorchServe's own: {type(exc).__name__}: {exc}"


def _find_obstacle() -> Optional[str]:
    if os.environ.get(OFF_VARIABLE, "0") not in ("", "0"):
        return f"TorchServe's own: {OFF_VARIABLE} is set"
    if str(os.environ.get("LOCAL_RANK", "0")) != "0" or int(os.environ.get("WORLD_SIZE", "0") or 0) > 1:
        return "TorchServe's own: several processes make up this worker"
    protocol, service = sys.modules.get("ts.protocol.otf_message_handler"), sys.modules.get("ts.service")
    main = sys.modules["__main__"]
    if protocol is None or service is None or getattr(main, "retrieve_msg", None) is not protocol.retrieve_msg:
        return "TorchServe's own: this is no worker of TorchServe"
    release = str(getattr(sys.modules["ts"], "__version__", "unknown"))
    if release not in RELEASES:
        return f"TorchServe's own: release {release} was not tried, only {', '.join(RELEASES)}"
    from handlers.frontend_sample import agree  # takes this module's names

    if not agree(protocol, service):
        return "TorchServe's own: the two ways do not agree on a sample"
    return None


def _take_over() -> None:
    main: Any = sys.modules["__main__"]
    service: Any = sys.modules["ts.service"]
    stock_read, stock_predict = main.retrieve_msg, service.Service.predict
    readers: Dict[Any, Reader] = {}

    def retrieve_msg(connection: Any) -> Tuple[bytes, Any]:
        if connection not in readers:
            readers[connection] = Reader(connection, stock_read)
        return readers[connection].read()

    def predict(self: Any, batch: Any) -> Any:
        return _predict(self, batch) if isinstance(batch, Batch) else stock_predict(self, batch)

    main.retrieve_msg = retrieve_msg
    service.Service.predict = predict


def _predict(service: Any, batch: Batch) -> Any:
    """Return the message that answers a batch, as TorchServe's ``Service.predict`` does."""
    module, context = sys.modules["ts.service"], service.context
    ids = dict(enumerate(batch.ids))
    context.request_ids = ids
    context.request_processor = [module.RequestProcessor(each) for each in batch.headers]
    context.metrics.request_ids = ids
    context.cl_socket = getattr(service, "cl_socket", None)
    encode = module.create_predict_response
    try:
        answers = service._entry_point(batch.rows, context)
    except MemoryError:
        logging.exception("out of memory")
        return encode(None, ids, "Out of resources", 507)
    except Exception:
        logging.exception("the handler failed")
        return encode(None, ids, "Prediction failed", 503)
    if len(answers) != len(ids):
        return encode(None, ids, "number of batch response mismatched", 503)
    return encode_answers(answers, batch, [read_response(context, index) for index in range(len(answers))])


def read_response(context: Any, index: int) -> Tuple[int, str, Mapping[str, str]]:
    """Return the status, reason and headers that a handler has set for a request of the batch."""
    status, reason = context.get_response_status(index)
    return 200 if status is None else status, reason or "", context.get_response_headers(index)
