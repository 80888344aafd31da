"""Whether the installed TorchServe reads and writes messages as ``handlers.frontend`` does: a sample, at each start."""

from typing import Any, Dict, Mapping

from handlers.frontend import END, HEADERS, PREDICT, Batch, Reader, encode_answers, pack_int, pack_text, read_response


def agree(protocol: Any, service: Any) -> bool:
    """Return whether TorchServe's modules read and write a sample as this one does.

    ``protocol`` is ``ts.protocol.otf_message_handler``, ``service`` is ``ts.service``.
    """
    message = _sample_message()
    batch = Reader(_Slices(message), stock=protocol.retrieve_msg).read()[1]
    held = _Slices(message)
    held.recv(1)  # the command
    headers, rows, ids = service.Service.retrieve_data_for_inference(protocol._retrieve_inference_msg(held))
    if not isinstance(batch, Batch) or (batch.ids, batch.rows) != (list(ids.values()), rows):
        return False
    if batch.headers != [pick_headers(each.get_request_properties()) for each in headers]:
        return False
    context = service.Context("sample", "", {}, len(rows), None, "")
    context.request_processor = [service.RequestProcessor(each) for each in batch.headers]
    context.set_response_header(1, "X-Sample", "\u00e4")
    context.set_response_content_type(1, "application/json")
    context.set_response_status(418, "I'm a teapot", 1)
    answers = [b"", b"{}\xff"]
    stock = protocol.create_predict_response(answers, ids, "Prediction success", 200, context=context)
    return bool(stock == encode_answers(answers, batch, [read_response(context, index) for index in range(len(rows))]))


def pick_headers(properties: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what TorchServe gives of a request's headers and fields, without the headers that no handler reads."""
    return {
        name if isinstance(value, dict) else name.lower(): value
        for name, value in properties.items()
        if isinstance(value, dict) or name.lower() in HEADERS
    }


def _sample_message() -> bytes:
    """Return a batch of two requests that have all that a request may have."""
    end = pack_int(END)
    first = [pack_text("11-22"), pack_text("Accept"), pack_text("*/*"), pack_text("X-\u00fc"), pack_text(""), end]
    first += [pack_text("body"), pack_text("application/json"), pack_text('{"a": 1}')]
    first += [pack_text("note"), pack_text("text/plain; charset=utf-8"), pack_text("\u00e9"), end]
    binary = bytes(range(256)) * 8
    second = [pack_text("33-44"), end, pack_text("data"), pack_text(""), pack_int(len(binary)), binary, end]
    return b"".join([PREDICT, *first, *second, end])


class _Slices:
    """Gives a message as a socket gives it that has never more than a few bytes at hand."""

    def __init__(self, message: bytes) -> None:
        self._rest = message

    def recv(self, size: int) -> bytes:
        part, self._rest = self._rest[: min(size, 97)], self._rest[min(size, 97) :]
        return part
