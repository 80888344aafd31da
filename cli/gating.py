"""The command that keeps the server as quick as it was: bench-gate."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.benching import plan_bench, report_end, report_faults, validate_length, write_reports
from cli.building import ROOT, add_folders, ensure_archive, report
from cli.serving import interrupts

if TYPE_CHECKING:  # both import torch, which takes seconds
    from benchmarking.gate import Baseline, Verdict
    from benchmarking.outcome import Outcome

_RECIPES = ROOT / "benchmarking" / "recipes"
MODELS = (_RECIPES / "resnet20.py", _RECIPES / "free.py")  # the reference jobs
_Subparsers = Any  # argparse's own type for this is private


def register(subparsers: _Subparsers) -> None:
    """Add the command of this module."""
    text = "compare the ratios of a run of the benchmark with a stored baseline; status 1 if one is worse"
    parser = subparsers.add_parser("bench-gate", help=text, description=text)
    jobs = ", ".join(path.stem for path in MODELS)
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", default=[str(path) for path in MODELS], help=f"(default: {jobs})"
    )
    parser.add_argument("--update", action="store_true", help="make this run the baseline, instead of comparing it")
    parser.add_argument("--baseline", type=Path, help="file of the baseline (default: benchmarking/baseline.json)")
    add_folders(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run of load (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each system has (default: 5)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench-gate", help="folder for the reports")
    parser.add_argument("--port", type=int, default=18080, help="of inference; four more follow (default: 18080)")
    parser.set_defaults(run=_gate)


def _gate(options: argparse.Namespace) -> int:
    from benchmarking.gate import BASELINE, read_baselines, to_baseline, write_baselines
    from serving.server import ensure_startable
    from tracing.loading import load_recipe

    validate_length(options.rounds, options.seconds)
    path = options.baseline or BASELINE
    # The old one is looked at first: an update of one model keeps the others, and nobody waits minutes for a refusal.
    baselines = read_baselines(path) if path.exists() or not options.update else {}
    names = {model: load_recipe(model, checked=False).recipe.name for model in options.models}
    if not options.update:
        _ensure_known(path, baselines, names.values())
    ensure_startable(options.port)
    interrupts()
    failures: list[str] = []
    for model, name in names.items():
        outcome = _measure(model, options)
        if report_end(outcome):
            failures.append(f"{name}: not all rounds were measured")
        elif report_faults(outcome) or outcome.refused():
            failures.append(f"{name}: answers of the kit's server were wrong or missing, which no ratio makes up for")
        elif options.update:
            baselines[name] = to_baseline(outcome)
        if not options.update:
            failures += _compare(outcome, baselines[name])
    if options.update and not failures:
        write_baselines(path, baselines)
        print(f"Written: {path}")
    for each in failures:
        print(f"error: {each}", file=sys.stderr)
    return 1 if failures else 0


def _ensure_known(
    path: Path, baselines: "dict[str, Baseline]", names: Any
) -> None:  # Any: names, in whatever holds them
    from serving.errors import ServerError

    missing = [name for name in names if name not in baselines]
    if missing:
        known = ", ".join(baselines) or "none"
        raise ServerError(f"the baseline {path} has no {', '.join(missing)}, only {known}; measure it with --update")


def _measure(model: str, options: argparse.Namespace) -> "Outcome":
    from benchmarking.bench import run_bench

    archive = ensure_archive(model, store=options.store, build=options.build)
    plan = plan_bench(model, archive, port=options.port, seconds=options.seconds, rounds=options.rounds)
    outcome = run_bench(plan, progress=lambda line: report(f"{plan.record.name}: {line}"))
    report(f"{plan.record.name}: reports in {write_reports(outcome, options.output)}")
    return outcome


def _compare(outcome: "Outcome", baseline: "Baseline") -> list[str]:
    """Print the comparison and return what failed, in words."""
    from benchmarking.gate import compare, explain, to_table

    verdicts: Sequence[Verdict] = compare(baseline, outcome.ratios())
    print(f"# {outcome.model}: this run ({outcome.rounds} round(s) of {outcome.seconds:g} s, {outcome.machine})")
    origin = f"{baseline.day}, {baseline.rounds} round(s) of {baseline.seconds:g} s, {baseline.machine}"
    print(f"\nBaseline: {origin}\n\n{to_table(verdicts)}\n\n{explain(verdicts)}\n")
    if baseline.machine != outcome.machine:
        report("warning: the baseline is of another machine; ratios hold on it only roughly, --update makes one here")
    return [f"{outcome.model}: {each.name} is {each.word}" for each in verdicts if each.fails]
