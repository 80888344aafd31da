"""Every error that is known, read from the data in ``known_errors/``.

One file for each stage, in the order in which the stages decide: ``host.toml``, ``cores.toml``, ``loading.toml``,
``compiling.toml``, ``running.toml``, ``following.toml`` (what only wraps another error) and ``serving.toml``. Within a
file the more fundamental error stands first. ``statuses.toml`` and ``compiler_codes.toml`` are tables of AWS's codes,
of which entries are made here.

In texts ``{name}`` is the pattern's group of that name and ``{count}`` the number of lines that matched.
"""

import functools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

STAGES = ("host", "cores", "loading", "compiling", "running", "following", "serving")
CONFIDENCES = {
    "confirmed": "in AWS's or TorchServe's own documents or source",
    "reported": "wording from public tracebacks, not from AWS's documents",
    "unconfirmed": "UNCONFIRMED: no public source has this wording for the real chip; take it as a hint",
}
_COMPILER_SOURCE = "AWS docs: compiler/error-codes/index.rst"
_COMPILER_CHECK = "read the lines after the code; the compiler's log is log-neuron-cc.txt in compiler_workdir"


@dataclass(frozen=True)
class KnownError:
    """One error: how it is recognised and what is said of it."""

    id: str  # short, stable, for people and programs
    stage: str  # one of STAGES
    patterns: tuple[re.Pattern[str], ...]  # any of which is found in a line
    sample: str  # a message as it is seen, which the patterns find
    cause: str
    check: str  # a command or a place to look at
    remedy: str
    source: str
    confidence: str  # a key of CONFIDENCES


@functools.cache
def known_errors() -> tuple[KnownError, ...]:
    """Return all entries, the most fundamental first; raises ``ValueError`` for an id that is there twice."""
    made = [*_made_statuses(), *_made_codes()]
    entries = []
    for stage in STAGES:
        entries += [_make_entry(stage, **each) for each in _read(f"{stage}.toml")["error"]]
        entries += [entry for entry in made if entry.stage == stage]
    ids = [entry.id for entry in entries]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise ValueError(f"known_errors: {', '.join(twice)}: expected each id once")
    return tuple(entries)


def _read(name: str) -> dict[str, Any]:
    """Return a file of the catalogue; its shape is what ``_make_entry`` and the tables take."""
    return tomllib.loads((resources.files("serving") / "known_errors" / name).read_text(encoding="utf-8"))


def _make_entry(stage: str, *, patterns: list[str], **texts: str) -> KnownError:
    return KnownError(stage=stage, patterns=tuple(map(re.compile, patterns)), **texts)


def _made_statuses() -> Iterator[KnownError]:
    """Entries of the runtime's statuses, which are found by number and by name.

    The groups let all statuses share their marks (``serving.diagnosis.find_mark``), which makes large logs quicker.
    """
    for row in _read("statuses.toml")["status"]:
        number, name = row["number"], row["name"]
        yield _make_entry(
            row["stage"],
            id=f"status-{number}",
            patterns=[
                rf"\bNRT_(?:{name.removeprefix('NRT_')})\b",
                rf"the model status=(?:{number})\b",
                rf"\bstatus=(?:{number}) message=",
                rf"Inference completed with err: (?:{number})\b",
                rf"Failed to load NN: .{{0,300}}, err: (?:{number})\b",
            ],
            sample=f"RuntimeError: Failed to execute the model status={number} message=text ({name})",
            cause=f"Status {number} of the Neuron runtime ({name}): {row['cause']}.",
            check=row["check"],
            remedy=row["remedy"],
            source="AWS docs: src/libnrt/include/nrt/nrt_status.h",
            confidence="confirmed",
        )


def _made_codes() -> Iterator[KnownError]:
    """Entries of the compiler's error codes, and one for the codes that the table lacks."""
    table = _read("compiler_codes.toml")["codes"]
    for code, (cause, remedy) in table.items():
        yield _make_code(f"ncc-{code.lower()}", rf"\bNCC_(?:{code})\b", code, cause, remedy, "confirmed")
    others = rf"\bNCC_(?!(?:{'|'.join(table)})\b)(?P<code>[A-Z]{{2,6}}\d{{2,4}})\b"
    remedy = "Read the compiler's own words beside the code, and AWS's page of error codes."
    yield _make_code("ncc-other", others, "IXYZ999", "the list of 2026 lacks it", remedy, "unconfirmed", shown="{code}")


def _make_code(
    id_: str, pattern: str, code: str, cause: str, remedy: str, confidence: str, shown: str = ""
) -> KnownError:
    return _make_entry(
        "compiling",
        id=id_,
        patterns=[pattern],
        sample=f"[INTERNAL_ERROR] [NCC_{code}] message of the compiler",
        cause=f"neuronx-cc refused the model with code {shown or code}: {cause}.",
        check=_COMPILER_CHECK,
        remedy=remedy,
        source=_COMPILER_SOURCE,
        confidence=confidence,
    )
