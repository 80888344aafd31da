"""What is said of a log's diagnoses, to people, and the catalogue as a table for the documents."""

import textwrap

from serving.diagnosis import Diagnosis, LogReport
from serving.error_catalogue import CONFIDENCES, KnownError, known_errors

_WIDTH = 110  # columns
_INDENT = 10  # columns of the names before the texts


def format_report(name: str, report: LogReport) -> str:
    """Return the report on the log ``name`` as lines of text: what was found, why, how to check it and what helps."""
    lines = f"{report.lines} line{'' if report.lines == 1 else 's'}"
    if not report.diagnoses:
        return (
            f"{name}: none of the {len(known_errors())} known errors is in its {lines}. That is no proof of health: "
            "an error may be unknown,\nor stand in another log (the workers' own, or dmesg)."
        )
    count = len(report.diagnoses)
    head = f"{name}: {count} known error{'' if count == 1 else 's'} in {lines}"
    order = ", the most fundamental first: what stands lower may only follow from it" if count > 1 else ""
    return "\n\n".join([f"{head}{order}", *map(_format_diagnosis, report.diagnoses)])


def _format_diagnosis(diagnosis: Diagnosis) -> str:
    times = f"in line {diagnosis.line}"
    if diagnosis.count > 1:
        times = f"{diagnosis.count} times, first in line {diagnosis.line}"
    texts = {"line": diagnosis.excerpt, "cause": diagnosis.cause, "check": diagnosis.check, "remedy": diagnosis.remedy}
    if diagnosis.others:
        texts["also"] = "; ".join(
            ", ".join(f"{name} {value}" for name, value in each.items()) for each in diagnosis.others
        )
    texts["source"] = f"{diagnosis.source} ({CONFIDENCES[diagnosis.confidence]})"
    return "\n".join([f"{diagnosis.id} ({diagnosis.stage}), {times}", *(_wrap(*item) for item in texts.items())])


def _wrap(name: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"  {name}".ljust(_INDENT),
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )


def format_table() -> str:
    """Return the known errors as a table in Markdown, the most fundamental first; the compiler's codes share a row."""
    rows = [_format_row(entry) for entry in known_errors() if not entry.id.startswith("ncc-")]
    codes = [entry.id.removeprefix("ncc-").upper() for entry in known_errors() if entry.id.startswith("ncc-")]
    listed = ", ".join(code for code in codes if code != "OTHER")
    last = f"| `ncc-CODE` | compiling | `NCC_CODE`: {listed}, and any other | confirmed; other codes unconfirmed |"
    return "\n".join(["| id | stage | is found as, for instance | confidence |", "|---|---|---|---|", *rows, last])


def _format_row(entry: KnownError) -> str:
    sample = _find_shown(entry).replace("|", "\\|").replace("`", "'")
    return f"| `{entry.id}` | {entry.stage} | `{sample}` | {entry.confidence} |"


def _find_shown(entry: KnownError) -> str:
    """The part of an entry's sample that a pattern finds, without dates and prefixes."""
    match = next(each for pattern in entry.patterns for each in [pattern.search(entry.sample)] if each)
    return textwrap.shorten(match[0], 90, placeholder=" ...")
