"""What a soak found, as JSON and as a page for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarking.soaking.accounting import ABANDONED, FAULT, LOST, REFUSED, RIGHT, WRONG

MARK = "<!-- Below this line the program writes: make soak -->"
_MEANING = {
    RIGHT: "good requests, and the expected answer",
    REFUSED: "bad requests, and the 4xx that they deserve",
    ABANDONED: "clients that went away on purpose",
    FAULT: "5xx to a request in flight while a worker was killed, scaled away or without a disk",
    WRONG: "**any other answer**",
    LOST: "**no answer at all**",
}


def render(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    table = report["table"]
    lines = [f"## Report of {report['date']}", "", report["machine"], "", f"**{report['verdict']}**", ""]
    lines += [f"- {problem}" for problem in report["problems"]]
    lines += ["", "| requests | | |", "|---:|---|---|"]
    ends = table["ends"]
    lines += [f"| {ends.get(end, 0):,} | {end} | {meaning} |" for end, meaning in _MEANING.items()]
    lines += [f"| {table['requests']:,} | in all | {table['requests'] / report['seconds']:.1f} a second |", ""]
    lines += ["| fault | times | seconds until whole again: median, longest | 5xx |", "|---|---:|---:|---:|"]
    lines += [
        f"| {kind} | {each['times']} | {each['median']:.1f}, {each['longest']:.1f} | {each['failed']} |"
        for kind, each in report["faults"].items()
    ]
    lines += ["", "| right answers during | requests | p50 ms | p90 ms | p99 ms | longest ms |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {phase} | {each['requests']:,} | {each['p50']:g} | {each['p90']:g} | {each['p99']:g} | {each['max']:g} |"
        for phase, each in table["latency_ms"].items()
    ]
    lines += ["", "| process | watched, s | RSS MB, first and last | growth, fitted, MB | descriptors | threads |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {each['seconds']} | {each['rss_mb'][0]:g}, {each['rss_mb'][1]:g} | {each['growth_mb']:+g} "
        f"| {each['descriptors'][0]} to {each['descriptors'][1]} | {each['threads'][0]} to {each['threads'][1]} |"
        for name, each in report["processes"].items()
    ]
    lines += ["", "| what is left | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in report["left"].items()]
    lines += ["", "| kind of request | became |", "|---|---|"]
    lines += [
        f"| {kind} | {', '.join(f'{count:,} {end}' for end, count in sorted(counts.items()))} |"
        for kind, counts in table["kinds"].items()
    ]
    return "\n".join(lines) + "\n"


def write(report: Mapping[str, Any], folder: Path, page: Path | None) -> None:
    """Write ``soak.json`` and ``soak.md`` to a folder, and the report below the mark of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
    text = render(report)
    (folder / "soak.md").write_text(text)
    if page is not None:
        head = page.read_text().partition(MARK)[0] if page.exists() else "# Soak\n\n"
        page.write_text(f"{head.rstrip()}\n\n{MARK}\n\n{text}")


def show_progress(now: float, seconds: float, counts: Mapping[str, int], last: str) -> str:
    """Return a line with a bar: how far, how long still, what was counted."""
    share = min(1.0, now / seconds)
    bar = "#" * round(20 * share)
    left = max(0.0, seconds - now)
    counted = ", ".join(f"{counts.get(end, 0)} {end}" for end in (RIGHT, REFUSED, FAULT, WRONG, LOST))
    return f"[{bar:<20}] {now:4.0f} s, {left:4.0f} s left; {counted}; last fault: {last or 'none'}"
