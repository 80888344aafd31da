"""The command ``buckets``: which sizes to compile for inputs that vary, from a sample of their real lengths."""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracing.bucket_planning import Cost, Plan

_Subparsers = Any  # argparse's own type for this is private
_HIDDEN = 384  # channels of MiniLM, the kit's text encoder


@dataclass(frozen=True)
class _Found:
    """What the command has to tell."""

    lengths: Counter[int]  # that were planned for
    longer: int  # items over the largest length
    plans: "list[Plan]"  # with 1, 2, 3... buckets
    plan: "Plan"  # with as many as asked for
    powers: "Plan"  # all powers of two
    best_powers: "Plan"  # as many of them as asked for


def register(subparsers: _Subparsers) -> None:
    """Add the command of this module."""
    text = "compute the buckets that waste least compute on a sample of real lengths"
    parser = subparsers.add_parser("buckets", help=text, description=text)
    parser.add_argument("--lengths", required=True, metavar="FILE", help="one whole number a line, or CSV; - for stdin")
    parser.add_argument("--column", metavar="NAME", help="the column of a CSV with a header")
    parser.add_argument("-k", type=_count, default=4, metavar="N", dest="most", help="buckets, at most (default: 4)")
    parser.add_argument(
        "--multiple-of", type=_count, default=1, metavar="N", dest="multiple", help="sizes are multiples of it"
    )
    parser.add_argument("--largest", type=_count, metavar="N", help="length that must fit; longer items are set apart")
    parser.add_argument(
        "--truncate", action="store_true", help="longer items are cut to --largest (default: they are refused)"
    )
    parser.add_argument(
        "--cost",
        choices=("linear", "attention"),
        default="linear",
        help="compute of an item: its length, or a transformer layer's 12 L H^2 + 2 L^2 H multiply-adds",
    )
    parser.add_argument(
        "--hidden", type=_count, metavar="H", help=f"channels of the transformer (default: {_HIDDEN}, MiniLM's)"
    )
    parser.add_argument("--dimension", metavar="NAME", help="its name in the recipe (default: --column, or sequence)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_buckets)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number over 0")


def _buckets(options: argparse.Namespace) -> int:
    from tracing.bucket_planning import limit_lengths, plan_buckets, plan_powers
    from tracing.errors import LengthsError

    if options.truncate and options.largest is None:
        raise LengthsError("--truncate needs --largest: the length that longer items are cut to")
    if options.hidden is not None and options.cost != "attention":
        raise LengthsError("--hidden is of --cost attention; add that, or leave --hidden out")
    lengths, longer = _read(options.lengths, options.column), 0
    if options.largest is not None:
        lengths, longer = limit_lengths(lengths, options.largest, truncate=options.truncate)
    cost = _choose_cost(options)
    powers, best_powers = plan_powers(lengths, options.most, cost=cost, largest=options.largest)
    # As many as there are powers of two as well, so that like is compared with like.
    most = max(options.most, len(powers.sizes))
    plans = plan_buckets(lengths, most, cost=cost, multiple=options.multiple, largest=options.largest)
    found = _Found(lengths, longer, plans, plans[min(options.most, len(plans)) - 1], powers, best_powers)
    dimension = options.dimension or options.column or "sequence"
    print(json.dumps(_as_json(found, dimension), indent=2) if options.json else _format(options, found, dimension))
    return 0


def _read(name: str, column: str | None) -> Counter[int]:
    from tracing.bucket_planning import read_lengths
    from tracing.errors import LengthsError

    try:
        if name == "-":
            return read_lengths(sys.stdin, column=column, where="stdin")
        # Spreadsheets begin a CSV with a byte order mark.
        with Path(name).open(encoding="utf-8-sig") as file:
            return read_lengths(file, column=column, where=name)
    except OSError as exc:
        raise LengthsError(f"{name} cannot be read ({exc.strerror}); expected a file with lengths") from exc
    except UnicodeDecodeError as exc:
        raise LengthsError(f"{name} is no text in UTF-8; expected a whole number in each line, or CSV") from exc


def _choose_cost(options: argparse.Namespace) -> "Cost":
    from tracing.bucket_planning import attention_cost, linear_cost

    return attention_cost(options.hidden or _HIDDEN) if options.cost == "attention" else linear_cost


def _as_json(found: _Found, dimension: str) -> dict[str, Any]:
    def plain(plan: "Plan") -> dict[str, Any]:
        return {**dataclasses.asdict(plan), "waste": plan.waste, "padding_share": plan.padding_share}

    return {
        "items": sum(found.lengths.values()),
        "longer": found.longer,
        "buckets": _recipe_buckets(found.plan, dimension),
        "plan": plain(found.plan),
        "by_number": [plain(plan) for plan in found.plans],
        "powers_of_two": plain(found.powers),
        "best_powers_of_two": plain(found.best_powers),
    }


def _recipe_buckets(plan: "Plan", dimension: str) -> list[dict[str, int]]:
    return [{dimension: size} for size in plan.sizes]


def _format(options: argparse.Namespace, found: _Found, dimension: str) -> str:
    lengths, plan, count = found.lengths, found.plan, sum(found.lengths.values())
    cost = f"attention, {options.hidden or _HIDDEN} channels" if options.cost == "attention" else "linear"
    lines = [f"{count:,} items of length {min(lengths):,} to {max(lengths):,}; compute of an item: {cost}"]
    if found.longer:
        fate = f"counted as cut to {options.largest}" if options.truncate else "left out: they would be refused"
        lines.append(f"{found.longer:,} items are longer than {options.largest}, {fate}")
    lines += ["", f"{'bucket':>10}{'items':>14}{'share':>9}"]
    for size, items in zip(plan.sizes, plan.items, strict=True):
        lines.append(f"{size:>10,}{items:>14,}{items / count:>9.1%}")
    return "\n".join([*lines, "", *_format_waste(found), "", *_format_notes(plan, dimension)])


def _format_waste(found: _Found) -> list[str]:
    lines = ["waste (compute of padding / compute of real work)"]
    rows = [("planned", found.plan), ("best of powers of 2", found.best_powers), ("all powers of 2", found.powers)]
    as_many = found.plans[min(len(found.powers.sizes), len(found.plans)) - 1]
    if as_many != found.plan:
        rows.append(("planned, as many", as_many))
    for name, plan in rows:
        lines.append(f"  {name:<20}{plan.waste:>9.1%}  with {len(plan.sizes)}: {', '.join(map(str, plan.sizes))}")
    by_number = ", ".join(f"{len(plan.sizes)}: {plan.waste:.1%}" for plan in found.plans)
    return [*lines, f"  planned, by number of buckets: {by_number}"]


def _format_notes(plan: "Plan", dimension: str) -> list[str]:
    count = len(plan.sizes)
    return [
        f"compiled modules: {count} x the recipe's batch sizes, so {4 * count} for [1, 2, 4, 8]; each is compiled by",
        "itself, and on a chip each holds a copy of the weights (torchserve-neuron plan shows what fits)",
        "",
        "for the recipe:",
        f"    buckets={json.dumps(_recipe_buckets(plan, dimension))},",
    ]
