"""What the doctor found of a server, as text."""

import textwrap
from collections.abc import Sequence

from serving.exposure_findings import ERROR, OK, WARNING, Finding, Look

_MARKS = {OK: "ok     ", WARNING: "WARNING", ERROR: "ERROR  "}
_WIDTH = 120


def format_report(look: Look, findings: Sequence[Finding]) -> str:
    """Return the findings as text: a line for what is well, all that is known for the rest."""
    where = "the loopback address: only this machine's users reach it" if look.server.is_loopback else "not a loopback"
    lines = [f"{look.server.url} ({where})"]
    for each in findings:
        lines.append(f"{_MARKS[each.level]} {each.what}: {each.found}{'; ' + each.meaning if each.meaning else ''}")
        if each.level == OK and not each.advice:
            continue
        for name, text in (("asked", each.asked), ("do", each.advice)):
            lines.append(f"        {name:<6}{text}")
    counts = ", ".join(f"{sum(each.level == level for each in findings)} {level}" for level in (ERROR, WARNING, OK))
    if not look.active:
        counts += "; --active also tries whether foreign URLs are fetched and slow clients cut off"
    wrapped = [_wrap(line) for line in [*lines, counts]]
    return "\n".join(wrapped)


def _wrap(line: str) -> str:
    indent = " " * (14 if line.startswith(" ") else 8)
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
