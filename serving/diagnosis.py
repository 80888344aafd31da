"""Known errors found in a log or in the text of an exception, with cause, check and remedy.

The errors are data, see ``serving.error_catalogue``. Logs are read as a stream: a block of whole lines at a time, and
only blocks that hold the fixed part of some message are looked at line by line.
"""

import functools
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from serving.error_catalogue import KnownError, known_errors

_BLOCK = 1 << 20  # bytes read at a time
_LONGEST = 1 << 16  # bytes of a line that are looked at; prints of whole tensors run to megabytes
_EXCERPT = 300  # characters of a line that are shown
_OTHERS = 4  # further sets of values that are kept of one error
_PLACE = re.compile(r"\{(\w+)\}")  # of a value in a text


@dataclass(frozen=True)
class Diagnosis:
    """One known error of a log, all its occurrences together."""

    id: str  # of the catalogue's entry
    stage: str  # of serving, see ``serving.error_catalogue.STAGES``
    count: int  # of lines
    line: int  # number of the first one, from 1
    excerpt: str  # of the first one
    values: dict[str, str]  # that the first one names, such as the cores requested
    others: list[dict[str, str]]  # different values of later ones, at most four
    cause: str
    check: str
    remedy: str
    source: str
    confidence: str  # confirmed, reported or unconfirmed


@dataclass(frozen=True)
class LogReport:
    """What a log says."""

    lines: int  # of the log
    diagnoses: list[Diagnosis]  # the most fundamental cause first


@dataclass
class _Found:
    """The occurrences of one error so far."""

    line: int
    excerpt: str
    values: dict[str, str]
    count: int = 1
    others: list[dict[str, str]] = field(default_factory=list)


def explain_error(text: str) -> list[Diagnosis]:
    """Return the known errors in an exception's text, the most fundamental first; none if it is not known.

    >>> [each.id for each in explain_error("Could not load the model status=4 message=Allocation Failure")]
    ['status-4']
    """
    return read_log(io.BytesIO(text.encode("utf-8", "replace"))).diagnoses


def read_log(stream: BinaryIO) -> LogReport:
    """Return the known errors of a log, the most fundamental first.

    Bytes that are no UTF-8 do no harm, lines are looked at up to 64 KiB, and the log is never in memory as a whole.
    """
    found: dict[str, _Found] = {}
    number = 0
    for block in _read_blocks(stream):
        marks = {mark for mark in _marks() if mark in block}
        live = [each for each in _searches() if each[0] in marks]
        for offset, line in enumerate(block.split("\n") if live else (), start=1):
            _search_line(line[:_LONGEST], number + offset, live, found)
        number += block.count("\n") + (not block.endswith("\n"))
    entries = [entry for entry in known_errors() if entry.id in found]
    return LogReport(number, [_make_diagnosis(entry, found[entry.id]) for entry in entries])


def find_mark(pattern: str) -> str:
    """Return the longest run of characters that every match of ``pattern`` holds; raise ``ValueError`` if it has none.

    >>> find_mark(r"(?:Logical )?Core\\(s\\) not available: (?P<left>\\d+) left")
    'Core(s) not available: '
    """
    runs, depth, at = [""], 0, 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        assert token is not None  # the last alternative takes any character
        at = token.end()
        character = token["escaped"] or token["plain"]
        if token["quantifier"] and not depth:
            runs[-1] = runs[-1][:-1]  # what it repeats may be missing
        depth += (token["group"] == "(") - (token["group"] == ")")
        if depth == 0 and token["group"] == "|":
            raise ValueError(f"{pattern!r} has alternatives: write them as patterns of their own")
        if character and not depth:
            runs[-1] += character
        else:
            runs.append("")
    mark = max(runs, key=len)
    if len(mark) < 4:
        raise ValueError(f"{pattern!r} has no fixed run of 4 characters, by which it could be found fast")
    return mark


_TOKEN = re.compile(
    r"\\(?P<escaped>[^a-zA-Z0-9])|\\.|\[(?:\\.|[^\]\\])+\]|(?P<group>[()|])|(?P<quantifier>[?*+]|\{[0-9,]+\})"
    r"|[.^$]|(?P<plain>.)"
)

_Search = tuple[str, re.Pattern[str], KnownError]


@functools.cache
def _searches() -> tuple[_Search, ...]:
    return tuple((find_mark(each.pattern), each, entry) for entry in known_errors() for each in entry.patterns)


@functools.cache
def _marks() -> frozenset[str]:
    return frozenset(mark for mark, _, _ in _searches())


def _read_blocks(stream: BinaryIO) -> Iterator[str]:
    """Blocks of whole lines; of a line that fills more than one block only the beginning is kept."""
    rest = b""
    while chunk := stream.read(_BLOCK):
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield (rest + head + newline).decode("utf-8", "replace")
            rest = tail[:_LONGEST]
        else:
            rest = (rest + chunk)[:_LONGEST]
    if rest:
        yield rest.decode("utf-8", "replace")


def _search_line(line: str, number: int, live: list[_Search], found: dict[str, _Found]) -> None:
    here: set[str] = set()  # an error counts once in a line, whichever of its patterns match
    for mark, pattern, entry in live:
        if mark not in line or entry.id in here:
            continue
        match = pattern.search(line)
        if match is not None:
            here.add(entry.id)
            _note(entry, match, number, found)


def _note(entry: KnownError, match: re.Match[str], number: int, found: dict[str, _Found]) -> None:
    values = {name: _clean(value) for name, value in match.groupdict().items() if value is not None}
    known = found.get(entry.id)
    if known is None:
        start = 0 if match.end() <= _EXCERPT else match.start()
        found[entry.id] = _Found(number, _clean(match.string[start : start + _EXCERPT]), values)
        return
    known.count += 1
    if values != known.values and values not in known.others and len(known.others) < _OTHERS:
        known.others.append(values)


def _clean(text: str) -> str:
    """Text without control characters, which a log could use to write over the terminal, and without runs of blanks."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _make_diagnosis(entry: KnownError, found: _Found) -> Diagnosis:
    values = {**found.values, "count": str(found.count)}
    return Diagnosis(
        id=entry.id,
        stage=entry.stage,
        count=found.count,
        line=found.line,
        excerpt=found.excerpt,
        values=found.values,
        others=found.others,
        cause=_fill(entry.cause, values),
        check=_fill(entry.check, values),
        remedy=_fill(entry.remedy, values),
        source=entry.source,
        confidence=entry.confidence,
    )


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: values.get(place[1], "unknown"), text)
