"""A benchmark's outcome as a page with plots that opens without a network: plain HTML with drawings in it."""

import html
import math
from collections.abc import Sequence
from statistics import median

from benchmarking.outcome import KIT, Outcome
from benchmarking.report import number, to_markdown

_COLOURS = ("#1b6ca8", "#c8553d", "#e0a030", "#588157", "#6d597a")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 320, 64, 40  # pixels
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}"
    "td,th{border:1px solid #ccc;padding:3px 7px;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def to_page(outcome: Outcome) -> str:
    """Return the page."""
    title = html.escape(f"{outcome.model} {outcome.version} for {outcome.target}, {outcome.day}")
    plots = _plot_latency(outcome) + _plot_fill(outcome) + _plot_split(outcome)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>"
        f"<body>{plots}{_tables(to_markdown(outcome))}</body></html>\n"
    )


def _plot_latency(outcome: Outcome) -> str:
    """Latency against throughput: a line for each system, a point for each concurrency, p50 filled and p99 hollow."""
    series = {}
    for system in outcome.systems():
        points = []
        for concurrency in outcome.concurrencies():
            group = outcome.group(system, concurrency)
            values = [(each.rate, each.latency_ms["50"], each.latency_ms["99"]) for each in group]
            points.append(tuple(median(column) for column in zip(*values, strict=True)))
        series[system] = points
    everything = [point for points in series.values() for point in points]
    most_rate = max((point[0] for point in everything), default=1.0) or 1.0
    logs = [math.log10(each) for point in everything for each in point[1:] if each > 0]
    low, high = math.floor(min(logs, default=0)), math.ceil(max(logs, default=1))
    high = max(high, low + 1)

    def x(rate: float) -> float:
        return _LEFT + rate / most_rate * (_WIDTH - _LEFT - 20)

    def y(milliseconds: float) -> float:
        share = (math.log10(milliseconds) - low) / (high - low) if milliseconds > 0 else 0.0
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 20)

    parts = [
        _text(_WIDTH / 2, _HEIGHT - 6, "requests/s"),
        _text(_LEFT, 12, "latency, ms: p50 filled, p99 hollow", "start"),
    ]
    for power in range(low, high + 1):
        level = y(10.0**power)
        parts.append(f'<line x1="{_LEFT}" y1="{level:.0f}" x2="{_WIDTH - 20}" y2="{level:.0f}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, level + 4, f"{10.0**power:g}", "end"))
    for step in range(5):
        parts.append(_text(x(most_rate * step / 4), _HEIGHT - 24, f"{most_rate * step / 4:,.0f}"))
    for index, (system, points) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        for column, fill in ((1, colour), (2, "#fff")):
            line = " ".join(f"{x(point[0]):.1f},{y(point[column]):.1f}" for point in points)
            dash = "" if column == 1 else ' stroke-dasharray="4 3"'
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"{dash}/>')
            for point in points:
                place = f'cx="{x(point[0]):.1f}" cy="{y(point[column]):.1f}"'
                parts.append(f'<circle {place} r="4" fill="{fill}" stroke="{colour}"/>')
        parts.append(_text(_WIDTH - 24, 16 + 16 * index, html.escape(system), "end", colour))
    return f"<h2>Latency against throughput</h2>{_drawing(parts, _HEIGHT)}"


def _plot_fill(outcome: Outcome) -> str:
    """Mean requests in a batch of the kit's server against requests at a time, on a logarithmic axis; p50 beside it."""
    rows = []
    for concurrency in sorted(outcome.concurrencies()):
        latency = median(each.latency_ms["50"] for each in outcome.group(KIT, concurrency))
        rows.append((concurrency, outcome.fill(concurrency).value, latency))
    known = [each for each in rows if each[1] > 0]
    if not known:
        return ""  # a server whose metrics do not tell
    most = max(outcome.batch_size, *(fill for _, fill, _ in known))
    doublings = math.log2(max(known[-1][0], 2))

    def x(concurrency: int) -> float:
        return _LEFT + math.log2(concurrency) / doublings * (_WIDTH - _LEFT - 80)

    def y(fill: float) -> float:
        return _HEIGHT - _BOTTOM - fill / most * (_HEIGHT - _BOTTOM - 40)

    parts = [
        _text(_WIDTH / 2, _HEIGHT - 6, "requests at a time"),
        _text(_LEFT, 12, "mean requests in a batch of the kit; beside each point p50, ms", "start"),
    ]
    for level in range(0, math.ceil(most) + 1, max(1, math.ceil(most) // 8)):
        height = f'y1="{y(level):.0f}" y2="{y(level):.0f}"'
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" {height} stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, y(level) + 4, str(level), "end"))
    line = " ".join(f"{x(at):.1f},{y(fill):.1f}" for at, fill, _ in known)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_COLOURS[0]}"/>')
    for at, fill, latency in known:
        parts.append(f'<circle cx="{x(at):.1f}" cy="{y(fill):.1f}" r="4" fill="{_COLOURS[0]}"/>')
        parts.append(_text(x(at), _HEIGHT - 24, str(at)))
        parts.append(_text(x(at) + 8, y(fill) - 8, number(latency), "start", _COLOURS[0]))
    return f"<h2>Batch fill against load</h2>{_drawing(parts, _HEIGHT)}"


def _plot_split(outcome: Outcome) -> str:
    """The processor time of an answer: a bar for each system at the highest concurrency."""
    highest = max((each.concurrency for each in outcome.samples), default=0)
    rows = []
    for system in outcome.systems():
        group = outcome.group(system, highest)
        costs = [(each.server_ms, each.worker_ms) for each in group]
        rows.append((system, *(median(column) for column in zip(*costs, strict=True))))
    model = median(each.model_seconds for each in outcome.limits) * 1e3 if outcome.limits else 0.0
    longest = max((jvm + worker for _, jvm, worker in rows), default=1.0) or 1.0
    parts, top = [], 34.0
    for index, label in enumerate(("JVM", "worker", "of it the model")):
        parts.append(f'<rect x="{180 + 150 * index}" y="8" width="12" height="12" fill="{_COLOURS[index]}"/>')
        parts.append(_text(198 + 150 * index, 18, label, "start"))
    for system, jvm, worker in rows:
        scale = (_WIDTH - 260) / longest
        inner = min(model, worker)
        left = 180.0
        for value, colour in ((jvm, _COLOURS[0]), (worker - inner, _COLOURS[1]), (inner, _COLOURS[2])):
            parts.append(f'<rect x="{left:.1f}" y="{top}" width="{value * scale:.1f}" height="20" fill="{colour}"/>')
            left += value * scale
        parts += [
            _text(172, top + 15, html.escape(system), "end"),
            _text(left + 6, top + 15, f"{jvm + worker:.2f}", "start"),
        ]
        top += 30
    heading = f"<h2>Processor milliseconds of an answer, {highest} at a time</h2>"
    return heading + _drawing(parts, int(top) + 6)


def _drawing(parts: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">{"".join(parts)}</svg>'


def _text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#444") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def _tables(markdown: str) -> str:
    """Return the report's headings, tables and paragraphs as HTML; it has nothing else."""
    parts: list[str] = []
    rows: list[str] = []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            if set(line) - set("|- "):
                kind = "td" if rows else "th"
                cells = "".join(f"<{kind}>{html.escape(each.strip())}</{kind}>" for each in line.strip("|").split("|"))
                rows.append(f"<tr>{cells}</tr>")
            continue
        if rows:
            parts.append(f"<table>{''.join(rows)}</table>")
            rows = []
        if line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            parts.append(f"<h{level}>{html.escape(line.lstrip('# '))}</h{level}>")
        elif line:
            parts.append(f"<p>{html.escape(line)}</p>")
    return "".join(parts)
