"""A benchmark's outcome as JSON and as Markdown."""

import json
import math
from dataclasses import asdict
from statistics import median

from benchmarking.bench import OPEN_SHARE, Outcome
from benchmarking.figures import Interval
from benchmarking.measuring import Sample
from benchmarking.prices import cost_of_a_million

_STAGES = ("queue", "read", "preprocess", "model", "postprocess", "handle")


def to_json(outcome: Outcome) -> str:
    """Return all figures, for the page, the gate and whoever wants to compute with them."""
    ratios = {name: asdict(each) for name, each in outcome.ratios().items()}
    return json.dumps({**asdict(outcome), "ratios": ratios}, indent=2) + "\n"


def to_markdown(outcome: Outcome) -> str:
    """Return the figures as tables; each is the median of the rounds."""
    emulated = " EMULATED: the chip's time is not in these figures, only the host's." if outcome.emulated else ""
    head = f"# {outcome.model} {outcome.version} for {outcome.target}, {outcome.day}\n\n{outcome.machine}.{emulated}\n"
    parts = [head, "## Ratios\n", _table_ratios(outcome), "## Closed loop\n", _table_samples(outcome, outcome.samples)]
    if outcome.open_samples:
        parts += [
            f"## Open loop at {OPEN_SHARE:.0%} of the highest rate\n",
            _table_samples(outcome, outcome.open_samples),
        ]
    parts += ["## Where the time goes\n", _table_stages(outcome), "## Start\n", _table_starts(outcome)]
    return "\n".join(parts)


def _table_ratios(outcome: Outcome) -> str:
    rows = ["| ratio | median | 95 % of resampled medians |", "|---|---|---|"]
    rows += [f"| {name} | {_number(each.value)} | {_range(each)} |" for name, each in outcome.ratios().items()]
    return "\n".join(rows) + "\n"


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
            cells.append(f"{cost_of_a_million(outcome.price, median(each.rate for each in group)):.3f}")
        rows.append("| " + " | ".join(cells) + " |")
    if outcome.price is not None:
        rows.append(f"\nPrice of an hour: {outcome.price.usd_per_hour} USD ({outcome.price.source}).")
    return "\n".join(rows) + "\n"


def _cells(group: list[Sample]) -> list[str]:
    cells = [_number(median(each.rate for each in group))]
    cells += [_number(median(each.latency_ms[name] for each in group)) for name in ("50", "90", "99", "99.9")]
    cells += [str(sum(sum(each.errors.values()) for each in group)), str(sum(each.wrong for each in group))]
    costs = [(each.server_ms, each.worker_ms, each.generator_ms, each.batch) for each in group]
    cells += [_number(median(column)) for column in zip(*costs, strict=True)]
    memory = [(each.memory_mb["server"], each.memory_mb["worker"], each.log_bytes) for each in group]
    return cells + [_number(median(column)) for column in zip(*memory, strict=True)]


def _table_stages(outcome: Outcome) -> str:
    rows = ["| at a time | " + " | ".join(f"{name}, µs" for name in _STAGES) + " |", "|---|" + "---|" * len(_STAGES)]
    for concurrency in dict.fromkeys(each.concurrency for each in outcome.samples):
        group = [each for each in outcome.samples if (each.system, each.concurrency) == ("kit", concurrency)]
        cells = [_number(median(each.stages_us.get(name, math.nan) for each in group)) for name in _STAGES]
        rows.append(f"| {concurrency} | " + " | ".join(cells) + " |")
    limit = ""
    if outcome.limits:
        alone = median(each.alone_seconds for each in outcome.limits) * 1e3
        model = median(each.model_seconds for each in outcome.limits) * 1e3
        rate = median(each.rate for each in outcome.limits)
        limit = (
            f"\nWithout a server: {_number(rate)} requests/s in full batches, one request alone {_number(alone)} ms, "
            f"the model {_number(model)} ms for each request of a full batch.\n"
        )
    return "\n".join(rows) + "\n\nOf the kit; queue: for a request, the rest: for a batch.\n" + limit


def _table_starts(outcome: Outcome) -> str:
    rows = ["| system | seconds from launch to first right answer |", "|---|---|"]
    rows += [f"| {system} | {_number(median(found))} |" for system, found in outcome.start_seconds.items()]
    return "\n".join(rows) + "\n"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(each: Interval) -> str:
    return f"{_number(each.low)} to {_number(each.high)}"
