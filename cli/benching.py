"""The command that measures: bench."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cli.building import ROOT, add_folders, add_target, add_weights, emulate, ensure_archive, report
from cli.serving import interrupts
from handlers.errors import KitError

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
        "--concurrency", type=_numbers, default=(1, 16, 64), help="requests at a time (default: 1,16,64)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run of load (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each system has (default: 3)")
    parser.add_argument("--workers", type=int, default=0, help="of the kit's server (default: one for each processor)")
    parser.add_argument(
        "--no-stock", action="store_true", help="leave out TorchServe as shipped; it takes pictures only"
    )
    price = parser.add_mutually_exclusive_group()
    price.add_argument("--price", type=float, help="USD for an hour of this machine")
    price.add_argument("--price-of", metavar="INSTANCE", help="take the price of this instance type in the table")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="folder for the three reports")
    parser.add_argument("--port", type=int, default=18080, help="of inference; four more follow (default: 18080)")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    emulate(options)
    from benchmarking.bench import BenchPlan, run_bench
    from benchmarking.page import to_page
    from benchmarking.prices import Price, find_price
    from benchmarking.report import to_json, to_markdown
    from serving.server import ensure_startable
    from tracing.checking import read_archive_record

    interrupts()
    if options.rounds < 1 or options.seconds <= 0:
        raise KitError(f"--rounds {options.rounds} and --seconds {options.seconds:g}: expected more than nothing")
    ensure_startable(options.port)
    price = Price(options.price, "given") if options.price else None
    if options.price_of:
        price = find_price(options.price_of)
    folders = {"store": options.store, "build": options.build}
    archive = ensure_archive(options.model, options.target, **folders, weights=options.weights)
    record = read_archive_record(archive)
    plan = BenchPlan(
        archive=archive,
        record=record,
        model="" if options.no_stock or record.handler.path != _PICTURES else options.model,
        port=options.port,
        concurrencies=options.concurrency,
        seconds=options.seconds,
        rounds=options.rounds,
        workers=options.workers,
        price=price,
    )
    outcome = run_bench(plan, progress=report)
    options.output.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", to_json(outcome)), ("md", to_markdown(outcome)), ("html", to_page(outcome))):
        (options.output / f"{record.name}.{suffix}").write_text(text, encoding="utf-8")
    print(to_markdown(outcome))
    print(f"Written: {options.output}/{record.name}.json, .md and .html")
    wrong = sum(each.wrong for each in [*outcome.samples, *outcome.open_samples] if each.system == "kit")
    if wrong:
        print(f"error: {wrong} answers of the kit's server are not the golden ones", file=sys.stderr)
    return 1 if wrong else 0


_PICTURES = "handlers.image_classifier:ImageClassifier"  # the handler whose job the stock way can do too


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(each.isdigit() and int(each) > 0 for each in parts):
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers of requests; expected 1,16,64")
    return tuple(int(each) for each in parts)
