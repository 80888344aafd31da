"""The gate: a run's ratios beside those of a stored baseline, and what is worse.

Only ratios of one run are compared, because they hold from one day and machine to the next; requests/s do not. A ratio
is *worse* where its whole interval lies on the bad side of the baseline's whole interval, by more than a slack:

- Intervals apart: of five rounds each, those of two runs of the same code are apart in the bad direction in 1 of 252
  cases (1 / C(10, 5)), of three rounds in 1 of 20, and a gate looks at some twenty ratios. So five are the default.
- The slack: intervals know the spread between rounds of one run, and nothing of what differs between two runs: other
  tenants of the machine, where memory and processes come to lie, a kernel's mood. It is a share of the baseline's
  median, by kind of ratio (``RULES``); a change for the worse that is smaller than it is not found.
- Of one or two rounds nothing is known about the spread: each such interval is widened by a factor of 1.5 either way,
  which is what single runs on a shared machine were seen to resolve.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarking.outcome import Kind, Outcome, Ratio
from benchmarking.report import format_range, number
from serving.errors import ServerError

BASELINE = Path(__file__).with_name("baseline.json")
FORMAT = 1
_FEWEST = 3  # runs whose spread means something
_UNKNOWN_SPREAD = 1.5
Word = Literal["better", "same", "worse", "not in the baseline", "not measured"]


@dataclass(frozen=True)
class Rule:
    """How a kind of ratio is judged."""

    higher_is_better: bool
    slack: float  # share of the baseline's median
    why: str  # that slack


RULES: Mapping[Kind, Rule] = {
    "rate": Rule(True, 0.15, "rates of one run share its machine"),
    "processor": Rule(False, 0.2, "processor time beside other tenants has misses of shared caches in it"),
    "latency": Rule(False, 0.25, "a lone request waits for timers and for sleeping processors to wake"),
    "tail": Rule(False, 0.5, "one answer in a hundred decides, and other tenants decide about it"),
    "memory": Rule(False, 0.05, "memory hardly varies"),
}


@dataclass(frozen=True)
class Baseline:
    """A model's ratios as they were."""

    day: str  # ISO 8601
    machine: str
    rounds: int
    seconds: float  # of each run of load
    ratios: Mapping[str, Ratio]


@dataclass(frozen=True)
class Verdict:
    """A ratio beside its baseline."""

    name: str
    before: Ratio | None
    now: Ratio | None
    word: Word

    @property
    def fails(self) -> bool:
        """Whether the gate stays shut for it: a figure that is no longer measured is none that holds."""
        return self.word in ("worse", "not measured")


def compare(baseline: Baseline, ratios: Mapping[str, Ratio]) -> list[Verdict]:
    """Return a verdict on each ratio of either side, those measured now first."""
    verdicts = []
    for name in dict.fromkeys([*ratios, *baseline.ratios]):
        before, now = baseline.ratios.get(name), ratios.get(name)
        if now is None or not math.isfinite(now.value):
            verdicts.append(Verdict(name, before, None, "not measured"))
        else:
            verdicts.append(Verdict(name, before, now, judge(before, now) if before else "not in the baseline"))
    return verdicts


def judge(before: Ratio, now: Ratio) -> Word:
    """Return whether a ratio is better or worse than it was, by the rule of its kind."""
    rule = RULES[now.kind]
    (old_low, old_high), (low, high) = _spread(before), _spread(now)
    slack = rule.slack * abs(before.value)
    below, above = high < old_low - slack, low > old_high + slack
    if not (below or above):
        return "same"
    return "better" if above == rule.higher_is_better else "worse"


def _spread(found: Ratio) -> tuple[float, float]:
    if found.runs >= _FEWEST:
        return found.low, found.high
    ends = [each * factor for each in (found.low, found.high) for factor in (1 / _UNKNOWN_SPREAD, _UNKNOWN_SPREAD)]
    return min(ends), max(ends)


def to_baseline(outcome: Outcome) -> Baseline:
    """Return an outcome's ratios as a baseline for later ones."""
    ratios = {name: each for name, each in outcome.ratios().items() if math.isfinite(each.value)}
    return Baseline(outcome.day, outcome.machine, outcome.rounds, outcome.seconds, ratios)


def to_table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    rows = ["| ratio | baseline | now | verdict |", "|---|---|---|---|"]
    rows += [f"| {each.name} | {_cell(each.before)} | {_cell(each.now)} | {each.word} |" for each in verdicts]
    return "\n".join(rows)


def explain(verdicts: Sequence[Verdict]) -> str:
    """Return what "worse" means for the kinds of ratios that were compared, with the reasons."""
    kinds = dict.fromkeys(each.now.kind for each in verdicts if each.now is not None)
    slacks = "; ".join(
        f"{kind} {RULES[kind].slack:.0%}, {'higher' if RULES[kind].higher_is_better else 'lower'} is better "
        f"({RULES[kind].why})"
        for kind in kinds
    )
    few = [
        each for each in verdicts if any(side is not None and side.runs < _FEWEST for side in (each.before, each.now))
    ]
    widened = f" Of fewer than {_FEWEST} rounds the spread is unknown: taken as a factor of {_UNKNOWN_SPREAD}."
    return (
        "Worse: the whole interval lies beyond the baseline's whole interval by more than a share of its median, "
        f"because rounds of one run do not show what differs between two runs. {slacks}.{widened if few else ''}"
    )


def _cell(found: Ratio | None) -> str:
    if found is None:
        return "-"
    return f"{number(found.value)} ({format_range(found)})"


def read_baselines(path: Path) -> dict[str, Baseline]:
    """Return the baselines in a file by the model's name; raise ``ServerError`` that says what about it is wrong."""
    advice = "write it again with --update"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ServerError(f"there is no baseline {path}; write one with --update") from exc
    except (OSError, ValueError) as exc:
        raise ServerError(f"the baseline {path} is no JSON that can be read ({exc}); {advice}") from exc
    found = told.get("format") if isinstance(told, dict) else None
    if found != FORMAT:
        raise ServerError(f"the baseline {path} has format {found!r}, expected {FORMAT}; {advice}")
    try:
        return {name: _read_model(each) for name, each in told["models"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        reason = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise ServerError(f"the baseline {path} is not as the gate writes it: {reason}; {advice}") from exc


def _read_model(told: Mapping[str, Any]) -> Baseline:  # Any: what JSON holds
    ratios = {name: _read_ratio(name, each) for name, each in told["ratios"].items()}
    return Baseline(str(told["day"]), str(told["machine"]), int(told["rounds"]), float(told["seconds"]), ratios)


def _read_ratio(name: str, told: Mapping[str, Any]) -> Ratio:
    value, low, high = (told[each] for each in ("value", "low", "high"))
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in (value, low, high)):
        raise ValueError(f"{name!r} has {value!r}, {low!r} and {high!r}, expected three numbers")
    if not low <= value <= high:
        raise ValueError(f"{name!r} is {value}, outside of its interval from {low} to {high}")
    if told["kind"] not in get_args(Kind):
        raise ValueError(f"{name!r} is of kind {told['kind']!r}, expected one of {', '.join(get_args(Kind))}")
    return Ratio(value, low, high, int(told["runs"]), told["kind"])


def write_baselines(path: Path, baselines: Mapping[str, Baseline]) -> None:
    """Write baselines so that ``read_baselines`` returns them."""
    models = {name: asdict(each) for name, each in sorted(baselines.items())}
    path.write_text(
        json.dumps({"format": FORMAT, "models": models}, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
