"""The command that measures a server beside others: bench."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.building import ROOT, add_folders, add_target, add_weights, emulate, ensure_archive, report
from cli.serving import interrupts
from handlers.errors import KitError

if TYPE_CHECKING:  # these import torch, which takes seconds
    from benchmarking.bench import BenchPlan
    from benchmarking.measuring import Sample
    from benchmarking.outcome import Outcome

_Subparsers = Any  # argparse's own type for this is private


def register(subparsers: _Subparsers) -> None:
    """Add the command of this module."""
    text = "measure a model's server beside TorchServe as shipped and beside no server at all, in one run"
    parser = subparsers.add_parser("bench", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="a shipped recipe's name, or the path of your own")
    add_target(parser)
    add_weights(parser)
    add_folders(parser)
    parser.add_argument(
        "--concurrency",
        type=read_numbers,
        default=(1, 16, 64),
        help="requests at a time (default: 1,16,64); 1,2,4,8,16,32,64 shows how batches fill",
    )
    parser.add_argument(
        "--generator",
        choices=("own", "wrk"),
        default="own",
        help="of closed loops: the kit's (default), or wrk on PATH as a check on it; answers are compared either way",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run of load (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each system has (default: 3)")
    parser.add_argument("--workers", type=int, default=0, help="of the kit's server (default: one for each processor)")
    parser.add_argument(
        "--no-stock", action="store_true", help="leave out TorchServe as shipped; it takes pictures only"
    )
    parser.add_argument(
        "--triton",
        type=Path,
        metavar="PYTHON",
        help="measure NVIDIA Triton too: the interpreter of an environment with nvidia-pytriton and torch",
    )
    price = parser.add_mutually_exclusive_group()
    price.add_argument("--price", type=float, help="USD for an hour of this machine")
    price.add_argument("--price-of", metavar="INSTANCE", help="take the price of this instance type in the table")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="folder for the three reports")
    parser.add_argument("--port", type=int, default=18080, help="of inference; four more follow (default: 18080)")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    emulate(options)
    from benchmarking.bench import run_bench
    from benchmarking.prices import Price, find_price
    from benchmarking.report import to_markdown
    from benchmarking.triton import find_triton
    from benchmarking.wrk import find_wrk
    from serving.server import ensure_startable

    validate_length(options.rounds, options.seconds)
    ensure_startable(options.port)
    if options.generator == "wrk":
        find_wrk()  # before an archive is built for minutes
    if options.triton:
        find_triton(options.triton)
    interrupts()
    price = Price(options.price, "given") if options.price else None
    if options.price_of:
        price = find_price(options.price_of)
    folders = {"store": options.store, "build": options.build}
    archive = ensure_archive(options.model, options.target, **folders, weights=options.weights)
    plan = plan_bench(
        options.model,
        archive,
        stock=not options.no_stock,
        triton=options.triton,
        port=options.port,
        concurrencies=options.concurrency,
        seconds=options.seconds,
        rounds=options.rounds,
        workers=options.workers,
        price=price,
        by_wrk=options.generator == "wrk",
    )
    outcome = run_bench(plan, progress=report)
    written = write_reports(outcome, options.output)
    print(to_markdown(outcome))
    print(f"Written: {written}.json, .md and .html")
    return max(report_faults(outcome), report_end(outcome))


def plan_bench(
    model: str, archive: Path, **settings: Any
) -> "BenchPlan":  # Any: the plan's own fields, each typed there
    """Return the plan for an archive; peers are left out where they cannot do the job."""
    from benchmarking.bench import BenchPlan
    from tracing.checking import read_archive_record

    record = read_archive_record(archive)
    same = model if record.handler.path == _PICTURES else ""
    return BenchPlan(archive=archive, record=record, model=same, **settings)


def write_reports(outcome: "Outcome", folder: Path) -> Path:
    """Write an outcome as JSON, Markdown and a page; return their path without the suffix."""
    from benchmarking.page import to_page
    from benchmarking.report import to_json, to_markdown

    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", to_json(outcome)), ("md", to_markdown(outcome)), ("html", to_page(outcome))):
        (folder / f"{outcome.model}.{suffix}").write_text(text, encoding="utf-8")
    return folder / outcome.model


def validate_length(rounds: int, seconds: float) -> None:
    """Raise ``KitError`` for a run of no length."""
    if rounds < 1 or not 0 < seconds < math.inf:
        raise KitError(f"--rounds {rounds} and --seconds {seconds:g}: expected more than nothing")


def report_faults(outcome: "Outcome") -> int:
    """Print what went wrong, and return 1 if the kit's server gave a wrong answer, or none at some load."""
    for system, faults in outcome.faults().items():
        print(f"warning: {system}: {'; '.join(faults)}", file=sys.stderr)
    wrong, silent = outcome.wrong(), [each.concurrency for each in outcome.samples if is_silent(each)]
    if wrong:
        print(f"error: {wrong} answers of the kit's server are not the golden ones", file=sys.stderr)
    if silent:
        print(f"error: the kit's server gave no right answer at {silent[0]} at a time; see its log", file=sys.stderr)
    return 1 if wrong or silent else 0


def report_end(outcome: "Outcome") -> int:
    """Print what ended the run before its last round, and return 1 if anything did."""
    if outcome.cut_short:
        print(f"error: {outcome.cut_short}; the figures are of the rounds before", file=sys.stderr)
    return 1 if outcome.cut_short else 0


def is_silent(sample: "Sample") -> bool:
    """Return whether the kit's server gave no right answer in a run."""
    return sample.system == "kit" and not sample.rate


_PICTURES = "handlers.image_classifier:ImageClassifier"  # the handler whose job the peers can do too


def read_numbers(text: str) -> tuple[int, ...]:
    """Return numbers of requests at a time, each once, smallest first; an ``ArgumentTypeError`` says what is wrong."""
    parts = text.split(",")
    if not all(each.isdigit() and int(each) > 0 for each in parts):
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers of requests; expected 1,16,64")
    return tuple(sorted({int(each) for each in parts}))
