"""A benchmark's outcome as JSON and as Markdown."""

import json
import math
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarking.figures import Interval
from benchmarking.measuring import Sample
from benchmarking.outcome import KIT, OPEN_SHARE, OWN_GENERATOR, Outcome
from benchmarking.prices import cost_of_a_million

_STAGES = ("queue", "read", "preprocess", "model", "postprocess", "handle")


def to_json(outcome: Outcome) -> str:
    """Return all figures, for the page, the gate and whoever wants to compute with them; null for what is unknown."""
    told = {
        **asdict(outcome),
        "ratios": {name: asdict(each) for name, each in outcome.ratios().items()},
        "beyond": {name: asdict(each) for name, each in _beyond(outcome).items()},
        "faults": outcome.faults(),
    }
    return json.dumps(_without_nan(told), indent=2, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:  # Any: what JSON can hold, and numbers that it cannot
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_markdown(outcome: Outcome) -> str:
    """Return the figures as tables; each is the median of the rounds."""
    emulated = " EMULATED: the chip's time is not in these figures, only the host's." if outcome.emulated else ""
    head = f"# {outcome.model} {outcome.version} for {outcome.target}, {outcome.day}\n\n{outcome.machine}.{emulated}\n"
    parts = [head, _describe_load(outcome), _list_faults(outcome), "## Ratios\n", _table_ratios(outcome)]
    if outcome.limits:
        parts += ["## What serving adds\n", _table_beyond(outcome)]
    parts += ["## Closed loop\n", _table_samples(outcome, outcome.samples)]
    if outcome.open_samples:
        parts += [
            f"## Open loop at {OPEN_SHARE:.0%} of the highest rate\n",
            _table_samples(outcome, outcome.open_samples),
        ]
    parts += ["## Batches against load\n", _table_fill(outcome)]
    parts += ["## Where the time goes\n", _table_stages(outcome), "## Start\n", _table_starts(outcome)]
    return "\n".join(each for each in parts if each)


def _describe_load(outcome: Outcome) -> str:
    opened = (
        "" if outcome.generator == OWN_GENERATOR else f"; of open loops and of the check of answers: {OWN_GENERATOR}"
    )
    length = f" {outcome.rounds} round(s) of {outcome.seconds:g} s for each figure." if outcome.rounds else ""
    return f"Load generator: {outcome.generator}{opened}.{length}\n"


def _list_faults(outcome: Outcome) -> str:
    ended = ""
    if outcome.cut_short:
        ended = f"## ENDED EARLY\n\n{outcome.cut_short}. The figures are of the {outcome.rounds} round(s) before.\n"
    found = outcome.faults()
    if not found:
        return ended
    lines = [f"{system}: {'; '.join(each)}.\n" for system, each in found.items()]
    return "\n".join([ended, "## NOT ALL ANSWERS WERE RIGHT\n", *lines])


def _table_ratios(outcome: Outcome) -> str:
    rows = ["| ratio | median | 95 % of resampled medians |", "|---|---|---|"]
    rows += [f"| {name} | {number(each.value)} | {format_range(each)} |" for name, each in outcome.ratios().items()]
    return "\n".join(rows) + "\n"


def _beyond(outcome: Outcome) -> dict[str, Interval]:
    """Return what the server adds to its model, in milliseconds and as a share of memory."""
    if not outcome.limits:
        return {}
    found = {
        f"processor ms a request beyond the model, {each} at a time": outcome.extra_processor_ms(each)
        for each in outcome.concurrencies()
    }
    if 1 in outcome.concurrencies():
        found["p50 beyond the time without a server, 1 at a time, ms"] = outcome.extra_latency_ms()
    if outcome.bare_mb:
        found["peak memory of a worker over torch and the model alone"] = outcome.memory_share()
    return found


def _table_beyond(outcome: Outcome) -> str:
    rows = ["| of the kit | median | 95 % of resampled medians |", "|---|---|---|"]
    rows += [f"| {name} | {number(each.value)} | {format_range(each)} |" for name, each in _beyond(outcome).items()]
    memory = ""
    if outcome.bare_mb:
        peaks = [f"{system} {number(median(found))} MB" for system, found in outcome.peak_mb.items()]
        bare = f"torch and the model alone {number(median(outcome.bare_mb))} MB"
        memory = f"\nHighest resident size of a worker so far: {', '.join([*peaks, bare])}.\n"
    return "\n".join(rows) + "\n" + memory


def _table_fill(outcome: Outcome) -> str:
    names = ["at a time", "requests/s", "p50 ms", "requests in a batch", "share of a full batch"]
    rows = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for concurrency in outcome.concurrencies():
        group, fill = outcome.group(KIT, concurrency), outcome.fill(concurrency).value
        cells = [number(median(each.rate for each in group)), number(median(each.latency_ms["50"] for each in group))]
        share = f"{fill / outcome.batch_size:.0%}" if outcome.batch_size and not math.isnan(fill) else "-"
        rows.append("| " + " | ".join([str(concurrency), *cells, number(fill), share]) + " |")
    most = f" A full batch holds {outcome.batch_size}." if outcome.batch_size else ""
    return "\n".join(rows) + f"\n\nOf the kit.{most}\n"


def _table_samples(outcome: Outcome, samples: list[Sample]) -> str:
    priced = outcome.price is not None
    names = ["system", "at a time", "requests/s", "p50 ms", "p90", "p99", "p99.9", "errors", "wrong"]
    names += ["JVM ms/request", "workers ms/request", "generator ms/request", "requests in a batch"]
    names += ["JVM MB", "worker MB", "log bytes / 1,000", *(["USD / million"] if priced else [])]
    rows = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    keys = list(dict.fromkeys((each.system, each.concurrency) for each in samples))
    for system, concurrency in keys:
        group = [each for each in samples if (each.system, each.concurrency) == (system, concurrency)]
        cells = [system, str(concurrency), *_cells(group)]
        if outcome.price is not None:
            rate = median(each.rate for each in group)
            cells.append(f"{cost_of_a_million(outcome.price, rate):.3f}" if rate else "-")
        rows.append("| " + " | ".join(cells) + " |")
    if outcome.price is not None:
        rows.append(f"\nPrice of an hour: {outcome.price.usd_per_hour} USD ({outcome.price.source}).")
    return "\n".join(rows) + "\n"


def _cells(group: list[Sample]) -> list[str]:
    cells = [number(median(each.rate for each in group))]
    cells += [number(median(each.latency_ms[name] for each in group)) for name in ("50", "90", "99", "99.9")]
    cells += [str(sum(sum(each.errors.values()) for each in group)), str(sum(each.wrong for each in group))]
    costs = [(each.server_ms, each.worker_ms, each.generator_ms, each.batch) for each in group]
    cells += [number(median(column)) for column in zip(*costs, strict=True)]
    memory = [(each.memory_mb["server"], each.memory_mb["worker"], each.log_bytes) for each in group]
    return cells + [number(median(column)) for column in zip(*memory, strict=True)]


def _table_stages(outcome: Outcome) -> str:
    rows = ["| at a time | " + " | ".join(f"{name}, µs" for name in _STAGES) + " |", "|---|" + "---|" * len(_STAGES)]
    for concurrency in outcome.concurrencies():
        group = outcome.group(KIT, concurrency)
        cells = [number(median(each.stages_us.get(name, math.nan) for each in group)) for name in _STAGES]
        rows.append(f"| {concurrency} | " + " | ".join(cells) + " |")
    limit = ""
    if outcome.limits:
        alone = median(each.alone_seconds for each in outcome.limits) * 1e3
        model = median(each.model_seconds for each in outcome.limits) * 1e3
        rate = median(each.rate for each in outcome.limits)
        limit = (
            f"\nWithout a server (the archive's own code called in a loop, a process on each core; no HTTP, JVM, queue "
            f"or socket, no load generator beside it): {number(rate)} requests/s in full batches, one request alone "
            f"{number(alone)} ms, the model {number(model)} ms for each request of a full batch.\n"
        )
    return "\n".join(rows) + "\n\nOf the kit; queue: for a request, the rest: for a batch.\n" + limit


def _table_starts(outcome: Outcome) -> str:
    names = ["system", "seconds from launch to first right answer", "runs of load until its rate was steady"]
    rows = ["| " + " | ".join(names) + " |", "|---|---|---|"]
    for system, found in outcome.start_seconds.items():
        runs = median(outcome.warm_up_runs.get(system, [math.nan]))
        rows.append(f"| {system} | {number(median(found))} | {number(runs)} |")
    return "\n".join(rows) + "\n"


def number(value: float) -> str:
    """Return a number as tables show it: three digits, whole from 100 on; "-" for none."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_range(each: Interval) -> str:
    """Return an interval's ends; of one round there is no interval, and it says so."""
    if each.runs < 2:
        return "none: one round" if each.runs else "-"
    return f"{number(each.low)} to {number(each.high)}"
