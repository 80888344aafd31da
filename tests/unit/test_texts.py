"""Texts out of requests, in every form that clients send, and into tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from handlers.errors import BadRequest, TooLarge, UnsupportedType
from handlers.payloads import INSTANCES, LIST, PLAIN, TENSORS
from handlers.texts import Pair, TextTokenizer, read_texts
from tracing.loading import SHIPPED

TOKENIZER = SHIPPED / "bert" / "tokenizer.json"
PARAMETERS = ("form", "top_k")


def read(body, kind="application/json"):
    """Read a body as a client sends it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_texts({"body": content}, {"body": kind}, PARAMETERS)


def tokenizer(**changes):
    """A real tokenizer for 16 tokens."""
    return TextTokenizer(TOKENIZER, **{"longest": 16, "truncate": False, "most_characters": 1000, **changes})


@pytest.mark.parametrize(
    ("body", "form", "items"),
    [
        ("a", PLAIN, ["a"]),
        ({"text": "a"}, PLAIN, ["a"]),
        ({"inputs": "a"}, PLAIN, ["a"]),
        ({"input": "a"}, PLAIN, ["a"]),
        (["a", "b"], LIST, ["a", "b"]),
        ({"texts": ["a", "b"]}, LIST, ["a", "b"]),
        ({"inputs": ["a", "b"]}, LIST, ["a", "b"]),
        ({"input": ["a"]}, LIST, ["a"]),
        ({"data": [{"text": "a"}]}, LIST, ["a"]),
        ({"instances": ["a", {"text": "b"}]}, INSTANCES, ["a", "b"]),
        ({"inputs": [{"name": "t", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}]}, TENSORS, ["a", "b"]),
        ({"seq_0": "a", "seq_1": "b"}, PLAIN, [Pair("a", "b")]),
        ([{"seq_0": "a", "seq_1": "b"}], LIST, [Pair("a", "b")]),
        ({"instances": [{"seq_0": "a", "seq_1": "b"}]}, INSTANCES, [Pair("a", "b")]),
    ],
)
def test_json_forms(body, form, items):
    """Every form that clients of other servers send is read, and answered in its own."""
    payload = read(body)
    assert (payload.form, payload.items) == (form, items)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"aGVsbG8=", "aGVsbG8="),
        ("Grüße".encode(), "Grüße"),
        (b"\xef\xbb\xbfhello", "hello"),
        (b"[1] Smith, 2019", "[1] Smith, 2019"),
        (b"{curly}", "{curly}"),
    ],
)
def test_a_plain_text_is_a_text(body, text):
    """It is neither base64 nor JSON, whatever it looks like."""
    assert read(body, "text/plain; charset=utf-8").items == [text]


def test_a_form_with_two_sequences_is_a_pair():
    """The fields that AWS's tutorial client sends."""
    payload = read_texts({"seq_0": b"one", "seq_1": bytearray(b"two"), "top_k": b"1"}, {}, PARAMETERS)
    assert payload.items == [Pair("one", "two")]
    assert payload.parameters == {"top_k": "1"}


def test_parameters_beside_texts():
    """They are kept for the handler, in a list's form too."""
    assert read({"texts": ["a"], "parameters": {"top_k": 2}}).parameters == {"top_k": 2}
    assert read({"text": "a", "parameters": {"top_k": 2}}).parameters == {"top_k": 2}


@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        ("", BadRequest, "the text is empty"),
        (" \n", BadRequest, "the text is empty"),
        (5, BadRequest, "found int 5"),
        (None, BadRequest, "found nothing"),
        ({"text": 5}, BadRequest, "'text' is int 5"),
        ({"text": None}, BadRequest, "'text' is nothing"),
        ({"words": "a"}, BadRequest, "an object with the keys words"),
        ([], BadRequest, "is empty"),
        ({"texts": []}, BadRequest, "'texts' is a list of 0"),
        (["a", 1.5], BadRequest, "found float 1.5"),
        (["a", ["b"]], BadRequest, "found a list of 1"),
        (["a"] * 129, TooLarge, "129 items"),
        ({"texts": ["a"] * 129}, TooLarge, "129 items"),
        ("a\ud800b", BadRequest, "half of a surrogate pair at position 1"),
        ("a\0b", BadRequest, "NUL character at position 1"),
        ({"seq_0": "a"}, BadRequest, "expected seq_0 and seq_1"),
        ({"seq_0": "a", "seq_1": 3}, BadRequest, "'seq_1' is int 3"),
        ({"seq_0": "a", "seq_1": ""}, BadRequest, "seq_1 is empty"),
        ({"texts": ["a"], "parameters": {"k": 2}}, BadRequest, "unknown parameter"),
        ({"texts": ["a"], "parameters": 3}, BadRequest, "'parameters' is int 3"),
    ],
)
def test_wrong_json(body, error, reason):
    """It is refused with what was found."""
    with pytest.raises(error, match=reason):
        read(body)


@pytest.mark.parametrize(
    ("body", "kind", "error", "reason"),
    [
        (b"", "text/plain", BadRequest, "empty body"),
        (b"caf\xe9", "text/plain", BadRequest, "byte 0xe9 at position 3"),
        (b"\x89PNG", "image/png", UnsupportedType, "image/png"),
        (b"\x89PNG", "", BadRequest, "not UTF-8"),
    ],
)
def test_wrong_bytes(body, kind, error, reason):
    """Bytes that are no text are refused with where."""
    with pytest.raises(error, match=reason):
        read(body, kind)


def test_a_text_becomes_tokens():
    """Special tokens at both ends, ones in the mask, all in the first segment."""
    tokens = tokenizer().encode("the cats")
    assert tokens.words == ("[CLS]", "the", "cat", "##s", "[SEP]")
    assert tokens.special == (True, False, False, False, True)
    assert tokens.mask.tolist() == [1] * 5
    assert tokens.segments.tolist() == [0] * 5
    assert tokens.ids.dtype == np.int64
    assert tokens.cut == 0


def test_a_pair_becomes_tokens_of_two_segments():
    """The second text has segment 1, with its end."""
    assert tokenizer().encode(Pair("the", "cat")).segments.tolist() == [0, 0, 0, 1, 1]


def test_a_long_text_is_refused():
    """With the numbers of tokens found and taken."""
    with pytest.raises(TooLarge, match="20 tokens, the model takes at most 16"):
        tokenizer().encode("the " * 18)


def test_a_long_text_is_cut_where_the_settings_say_so():
    """The beginning and the special tokens stay; how much is gone is told; the next text is whole."""
    cutting = tokenizer(truncate=True)
    tokens = cutting.encode("the " * 17 + "cat")
    assert (len(tokens.ids), tokens.cut, tokens.words[-1]) == (16, 4, "[SEP]")
    assert cutting.encode("cat").cut == 0


def test_of_a_pair_the_longer_text_is_cut():
    """The shorter one stays whole."""
    tokens = tokenizer(truncate=True).encode(Pair("the " * 30, "cat"))
    assert len(tokens.ids) == 16
    assert "cat" in tokens.words


def test_too_many_characters_are_refused_before_they_are_tokenized():
    """10 MB cost no time, whether texts are cut or not."""
    with pytest.raises(TooLarge, match="10000000 characters, at most 1000"):
        tokenizer(truncate=True).encode("x" * 10_000_000)


def test_a_text_without_tokens_is_refused():
    """Control characters are all that it has."""
    with pytest.raises(BadRequest, match="nothing that the tokenizer keeps"):
        tokenizer().encode("\x01\x02")


def test_settings_in_the_tokenizer_file_do_not_pad_or_cut(tmp_path: Path):
    """Many published files do both, to lengths of their training."""
    from tokenizers import Tokenizer

    padding = Tokenizer.from_file(str(TOKENIZER))
    padding.enable_padding(length=12)
    padding.enable_truncation(4)
    padding.save(str(tmp_path / "tokenizer.json"))
    own = TextTokenizer(tmp_path / "tokenizer.json", longest=16, truncate=False, most_characters=100)
    assert len(own.encode("the cat sat on").ids) == 6
