"""Texts: reading them out of requests, and turning them into token ids with a tokenizer.json."""

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from handlers.errors import BadRequest, ModelError, TooLarge, UnsupportedType
from handlers.payloads import (
    LIST,
    PLAIN,
    Body,
    Payload,
    describe,
    list_of,
    pick_parameters,
    read_body,
    read_field,
    read_json_items,
    shorten,
)

TOKENIZER = "tokenizer.json"  # at the archive's root, as Hugging Face's `tokenizers` writes it
PAIR_FIELDS = ("seq_0", "seq_1")  # of a pair of texts: the names in AWS's TorchServe tutorial for BERT
# Names under which clients send texts; text-embeddings-inference takes "inputs", OpenAI's API "input".
_TEXT_KEYS = ("text", "inputs", "input", "data", "body")
_LIST_KEYS = ("texts", "inputs", "input", "data")
_EXPECTED = 'a text, a list of texts, {"text": "..."}, {"instances": ["..."]} or {"seq_0": "...", "seq_1": "..."}'


class Pair(NamedTuple):
    """Two texts that belong together."""

    first: str
    second: str


class Tokens(NamedTuple):
    """A text, or a pair, as the numbers that a model takes."""

    ids: np.ndarray  # int64 (tokens,), special tokens included
    mask: np.ndarray  # int64 (tokens,), ones
    segments: np.ndarray  # int64 (tokens,), 1 for the second text of a pair
    words: Tuple[str, ...]  # the tokens' texts, for explanations
    special: Tuple[bool, ...]  # whether the tokenizer added the token
    cut: int  # how many tokens were cut off


def read_texts(row: Mapping[str, Any], content_types: Mapping[str, str], known: Sequence[str]) -> Payload:
    """Return the texts and pairs (``Pair``) that a request holds; raise a ``RequestError`` that says what is wrong.

    Takes text/plain, JSON, KServe v1 and v2, and forms with the fields ``seq_0`` and ``seq_1``. ``known`` are the names
    of the parameters that a client may set.
    """
    names = [name for name in PAIR_FIELDS if name in row]
    if names:
        texts = {name: read_field(row[name]) for name in names}
        others = {name: read_field(row[name]) for name in row if name in known}
        return Payload([read_item(texts)], PLAIN, parameters=others)
    plain = _find_plain(row, content_types, known)
    body = read_body(row, content_types, known) if plain is None else plain
    parameters = pick_parameters(body.fields, known)
    if isinstance(body.value, bytes):
        _check_type(body.content_type)
        return Payload([read_item(decode_text(body.value))], PLAIN, parameters=parameters)
    return read_json(body.value, known, parameters)


def read_json(value: Any, known: Sequence[str], parameters: Mapping[str, Any] = {}) -> Payload:
    """Return the texts and pairs in a JSON body."""
    if isinstance(value, dict) and not _is_kserve(value):
        keys = [key for key in _LIST_KEYS if isinstance(value.get(key), list)]
        if keys:
            more = value.get("parameters", {})
            if not isinstance(more, dict):
                raise BadRequest(f"'parameters' is {describe(more)}, expected an object")
            merged = {**parameters, **pick_parameters(more, known, strict=True)}
            return Payload([read_item(each) for each in list_of(value, keys[0])], LIST, parameters=merged)
    return read_json_items(value, read_item, known, parameters, lists=True)


def read_item(value: Any) -> Any:
    """Return what JSON holds as a text or a ``Pair``; raise ``BadRequest`` for anything else."""
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, dict):
        if any(name in value for name in PAIR_FIELDS):
            return _read_pair(value)
        keys = [key for key in _TEXT_KEYS if key in value]
        if keys and isinstance(value[keys[0]], str):
            return check_text(value[keys[0]])
        if keys:
            raise BadRequest(f"{keys[0]!r} is {describe(value[keys[0]])}, expected a text")
    raise BadRequest(f"found {describe(value)}, expected {_EXPECTED}")


def check_text(text: str, name: str = "the text") -> str:
    """Return ``text``; raise ``BadRequest`` where it is empty or holds what no text does."""
    if not text.strip():
        raise BadRequest(f"{name} is empty; send at least one word")
    if "\0" in text:
        raise BadRequest(f"{name} holds a NUL character at position {text.index(chr(0))}; is it a binary file?")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise BadRequest(
            f"{name} holds half of a surrogate pair at position {exc.start}, which is no character"
        ) from exc
    return text


def decode_text(value: bytes) -> str:
    """Return bytes in UTF-8 as text, without a byte order mark; raise ``BadRequest`` for other bytes."""
    if not value:
        raise BadRequest(
            "the request has an empty body; send a text, for example with: "
            "curl -H 'Content-Type: text/plain' -d 'a text' URL"
        )
    try:
        return value.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise BadRequest(f"the text is not UTF-8: byte {value[exc.start]:#04x} at position {exc.start}") from exc


def _find_plain(row: Mapping[str, Any], content_types: Mapping[str, str], known: Sequence[str]) -> Optional[Body]:
    """Return a body that says it is a text, which then is one, though it may begin with a bracket; None for others."""
    names = [name for name in ("data", "body") if name in row] or [name for name in row if name not in known]
    if len(names) != 1 or not content_types.get(names[0].lower(), "").startswith("text/"):
        return None
    value = row[names[0]]
    content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
    fields = {name: read_field(row[name]) for name in row if name != names[0] and name in known}
    return Body(content, "text/plain", fields)


def _check_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip()
    # What curl -T sends has no type.
    if kind not in ("", "application/octet-stream") and not kind.startswith("text/"):
        raise UnsupportedType(f"the body is {shorten(kind)}, expected text/plain or application/json")


def _is_kserve(value: Dict[str, Any]) -> bool:
    inputs = value.get("inputs")
    tensors = isinstance(inputs, list) and any(isinstance(each, dict) and "datatype" in each for each in inputs)
    return "instances" in value or tensors


def _read_pair(value: Dict[str, Any]) -> Pair:
    unknown = [name for name in value if name not in PAIR_FIELDS]
    missing = [name for name in PAIR_FIELDS if name not in value]
    if missing or unknown:
        raise BadRequest(f"a pair of texts has the fields {shorten(', '.join(value))}, expected seq_0 and seq_1")
    for name in PAIR_FIELDS:
        if not isinstance(value[name], str):
            raise BadRequest(f"{name!r} is {describe(value[name])}, expected a text")
    return Pair(check_text(value["seq_0"], "seq_0"), check_text(value["seq_1"], "seq_1"))


class TextTokenizer:
    """A ``tokenizer.json`` that cuts and pads nothing by itself, bounded in what it takes."""

    def __init__(self, file: Path, *, longest: int, truncate: bool, most_characters: int) -> None:
        """Load ``file`` for models of up to ``longest`` tokens; raise ``ModelError`` where it cannot be loaded.

        ``truncate`` cuts longer texts instead of refusing them. ``most_characters`` bounds the time it takes.
        """
        self._tokenizer = _load_tokenizer(file)
        self._longest, self._truncate, self._most_characters = longest, truncate, most_characters

    def encode(self, item: Any) -> Tokens:
        """Return a text or a ``Pair`` as tokens; raise ``TooLarge`` for one that is too long."""
        texts = tuple(item) if isinstance(item, Pair) else (item,)
        found = sum(len(text) for text in texts)
        if found > self._most_characters:
            raise TooLarge(f"the text has {found} characters, at most {self._most_characters} are taken; send parts")
        encoding = _call(self._tokenizer.encode, *texts)
        count = len(encoding.ids)
        if count == sum(encoding.special_tokens_mask):
            raise BadRequest("the text holds nothing that the tokenizer keeps, such as letters or digits")
        if count > self._longest and not self._truncate:
            raise TooLarge(f"the text has {count} tokens, the model takes at most {self._longest}; send parts")
        if count > self._longest:
            encoding = self._cut(encoding, texts)
        return _as_tokens(encoding, count - len(encoding.ids))

    def _cut(self, encoding: Any, texts: Sequence[str]) -> Any:
        """Return the encoding of the longest beginning that fits; of a pair the longer text is cut first."""
        _call(self._tokenizer.enable_truncation, self._longest)
        try:
            return _call(self._tokenizer.encode, *texts)
        finally:
            self._tokenizer.no_truncation()


def _as_tokens(encoding: Any, cut: int) -> Tokens:
    special = tuple(bool(each) for each in encoding.special_tokens_mask)
    return Tokens(
        np.array(encoding.ids, np.int64),
        np.ones(len(encoding.ids), np.int64),
        np.array(encoding.type_ids, np.int64),
        tuple(encoding.tokens),
        special,
        cut,
    )


def _load_tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as exc:
        raise ModelError("the package tokenizers is missing; install it: pip install tokenizers") from exc
    if not file.is_file():
        raise ModelError(f"there is no {file.name} in {file.parent}; name it in the recipe's extra_files")
    tokenizer = _call(Tokenizer.from_file, str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _call(function: Any, *arguments: Any) -> Any:
    """Call into the tokenizer's Rust code, whose panics are no ``Exception`` and would end the worker."""
    try:
        return function(*arguments)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as exc:
        raise ModelError(f"the tokenizer failed on it ({type(exc).__name__}: {shorten(str(exc))})") from exc


def token_inputs(tokens: Tokens, names: Sequence[str]) -> Tuple[np.ndarray, ...]:
    """Return a text's arrays for a model's inputs, by their names."""
    arrays = {"input_ids": tokens.ids, "attention_mask": tokens.mask, "token_type_ids": tokens.segments}
    return tuple(arrays[name] for name in names)


INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


def find_input_faults(inputs: Sequence[Any], least: Sequence[str]) -> List[str]:
    """Return what is wrong with a text model's inputs, a sentence each; ``least`` are those that it must have."""
    faults = []
    names = [spec.name for spec in inputs]
    if not set(least) <= set(names) or not set(names) <= set(INPUT_NAMES):
        faults.append(f"inputs: found {', '.join(names)}, expected {', '.join(least)} and of {', '.join(INPUT_NAMES)}")
    for spec in inputs:
        if spec.dtype != "int64" or len(spec.shape) != 2:
            faults.append(f"inputs: {spec.name} is {spec.dtype} {list(spec.shape)}, expected int64 (batch, sequence)")
    return faults


def read_labels(folder: Path) -> Optional[Tuple[str, ...]]:
    """Return the labels that a Hugging Face ``config.json`` in ``folder`` names, None where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    given = json.loads(file.read_text(encoding="utf-8")).get("id2label") or {}
    return tuple(str(given[str(number)]) for number in range(len(given))) or None
