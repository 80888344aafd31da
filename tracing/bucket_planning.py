"""Which buckets waste least compute, from a sample of real lengths: an exact method, and what others would waste."""

import csv
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tracing.errors import LengthsError

Cost = Callable[[int], int]  # compute of one item of a length; grows with the length
_FIRST_POWER = 16  # the smallest of the powers of two that a plan is compared with
_MOST_DIGITS = 9  # of a length; a longer number is a mistake


@dataclass(frozen=True)
class Plan:
    """Bucket sizes, and what they cost on a sample."""

    sizes: tuple[int, ...]  # smallest first
    items: tuple[int, ...]  # of the sample, that fall into each
    work: int  # compute of the items at their own lengths
    padding: int  # compute that the padding adds to it

    @property
    def waste(self) -> float:
        """Compute of padding over compute of real work: 0.25 means that a quarter is computed on top."""
        return self.padding / self.work if self.work else 0.0

    @property
    def padding_share(self) -> float:
        """The share of padding in all that is computed, 0 to 1, as a running worker counts it."""
        return self.padding / (self.work + self.padding) if self.work else 0.0


def linear_cost(length: int) -> int:
    """Return the compute of an item where it grows with the length: the length itself."""
    return length


def attention_cost(hidden: int) -> Cost:
    """Return the compute of an item in a transformer of ``hidden`` channels, in units of ``2 * hidden`` multiply-adds.

    A layer multiplies L tokens by 12 H^2 weights: 4 H^2 of queries, keys, values and output, and 8 H^2 of a
    feed-forward part four times as wide (Kaplan et al. 2020, arXiv 2001.08361, table 1); scores and weighted sums are
    L^2 H each. 12 L H^2 + 2 L^2 H is 2 H times L (6 H + L), and whole numbers keep the method exact.
    """
    return lambda length: length * (6 * hidden + length)


def read_lengths(lines: Iterable[str], *, column: str | None = None, where: str = "lengths") -> Counter[int]:
    """Return how often each length occurs in lines of one whole number each, or in a ``column`` of CSV with a header.

    Empty lines are left out. Raises ``LengthsError`` with the line and the value that is no whole number over 0.
    """
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    rows = ((number, line) for number, line in numbered if line)
    position = 0 if column is None else _find_column(rows, column, where)
    lengths: Counter[int] = Counter()
    for number, line in rows:
        cells = next(csv.reader([line]))
        if column is None and len(cells) > 1:
            raise LengthsError(_tell_columns(cells, f"{where}, line {number}"))
        lengths[_read_length(cells[position] if position < len(cells) else "", f"{where}, line {number}")] += 1
    if not lengths:
        raise LengthsError(f"{where} holds no lengths; expected one whole number in each line")
    return lengths


def limit_lengths(lengths: Mapping[int, int], largest: int, *, truncate: bool = False) -> tuple[Counter[int], int]:
    """Return the lengths that a largest bucket takes, and how many items are longer.

    Longer items are left out, since they are refused; with ``truncate`` they count as cut to ``largest``. Raises
    ``LengthsError`` where none is left.
    """
    kept = Counter({length: count for length, count in lengths.items() if length <= largest})
    longer = sum(count for length, count in lengths.items() if length > largest)
    if truncate and longer:
        kept[largest] += longer
    if not kept:
        raise LengthsError(f"all lengths are over {largest}, the shortest is {min(lengths)}; take a larger one")
    return kept, longer


def plan_buckets(
    lengths: Mapping[int, int],
    most: int,
    *,
    cost: Cost = linear_cost,
    multiple: int = 1,
    largest: int | None = None,
) -> list[Plan]:
    """Return the plans that waste least, with 1 to ``most`` buckets; fewer where there are fewer distinct sizes.

    ``lengths`` gives the number of items of each length, none longer than ``largest``, which the largest bucket holds
    as well. Sizes are multiples of ``multiple``. Takes time and memory in proportion to ``most`` times the distinct
    sizes.
    """
    last = max(max(lengths), largest or 0)
    counts = Counter({_round_up(last, multiple): 0})
    for length, count in lengths.items():
        counts[_round_up(length, multiple)] += count
    sizes = sorted(counts)
    return [measure_buckets(lengths, chosen, cost=cost) for chosen in _choose_sizes(sizes, counts, most, cost)]


def plan_powers(
    lengths: Mapping[int, int], most: int, *, cost: Cost = linear_cost, largest: int | None = None
) -> tuple[Plan, Plan]:
    """Return what all powers of two from 16 to the first that holds all lengths waste, and the best ``most`` of them.

    That first one also holds ``largest``.
    """
    powers = list_powers(max(max(lengths), largest or 0))
    counts = Counter({powers[-1]: 0})
    for length, count in lengths.items():
        counts[max(powers[0], _next_power(length))] += count
    best = _choose_sizes(sorted(counts), counts, most, cost)[-1]
    return measure_buckets(lengths, powers, cost=cost), measure_buckets(lengths, best, cost=cost)


def measure_buckets(lengths: Mapping[int, int], sizes: Sequence[int], *, cost: Cost = linear_cost) -> Plan:
    """Return what given ``sizes``, smallest first, cost on a sample; each length goes to the smallest that holds it.

    Raises ``LengthsError`` where the largest does not hold the longest length.
    """
    if max(lengths) > sizes[-1]:
        raise LengthsError(f"the largest bucket is {sizes[-1]}, the longest length {max(lengths)}; add a larger one")
    items, work, computed, index = [0] * len(sizes), 0, 0, 0
    for length in sorted(lengths):
        while sizes[index] < length:
            index += 1
        items[index] += lengths[length]
        work += lengths[length] * cost(length)
        computed += lengths[length] * cost(sizes[index])
    return Plan(tuple(sizes), tuple(items), work, computed - work)


def list_powers(longest: int) -> list[int]:
    """Return the powers of two from 16 to the first that is at least ``longest``."""
    powers = [_FIRST_POWER]
    while powers[-1] < longest:
        powers.append(2 * powers[-1])
    return powers


def _choose_sizes(sizes: Sequence[int], counts: Mapping[int, int], most: int, cost: Cost) -> list[list[int]]:
    """Return the best 1, 2, ... ``most`` of ``sizes`` (ascending), the last always among them.

    Dynamic programming: the best of ``n`` buckets for the sizes up to j is the least, over i < j, of the best ``n - 1``
    up to i plus ``cost(sizes[j])`` for each item after i.
    """
    costs = [0, *(cost(size) for size in sizes)]
    below = list(accumulate((counts[size] for size in sizes), initial=0))
    row = [costs[end] * below[end] for end in range(len(sizes) + 1)]
    cuts: list[list[int]] = [[0] * len(row)]
    for used in range(2, min(most, len(sizes)) + 1):
        row, cut = _add_bucket(row, costs, below, used)
        cuts.append(cut)
    return [_follow(cuts[: number + 1], sizes) for number in range(len(cuts))]


def _add_bucket(row: list[int], costs: list[int], below: list[int], used: int) -> tuple[list[int], list[int]]:
    """Return the least cost with one bucket more for each end, and where its last bucket starts.

    For an end j the candidates i are straight lines in cost(j), of slope -below[i]: later ones are steeper, and cost(j)
    grows with j. So the least is on their lower envelope, kept in a queue, and every line enters and leaves it once.
    """
    best, cut = [0] * len(row), [0] * len(row)
    lines: deque[int] = deque()
    for end in range(used, len(row)):
        new, price = end - 1, costs[end]
        while len(lines) > 1 and _is_hidden(lines[-2], lines[-1], new, row, below):
            lines.pop()
        lines.append(new)
        while len(lines) > 1 and row[lines[1]] - below[lines[1]] * price <= row[lines[0]] - below[lines[0]] * price:
            lines.popleft()
        cut[end] = lines[0]
        best[end] = row[lines[0]] + price * (below[end] - below[lines[0]])
    return best, cut


def _is_hidden(first: int, middle: int, last: int, row: list[int], below: list[int]) -> bool:
    """Whether the middle one of three lines, each steeper than the one before, is nowhere below both others."""
    return (row[last] - row[first]) * (below[middle] - below[first]) <= (row[middle] - row[first]) * (
        below[last] - below[first]
    )


def _follow(cuts: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[int]:
    chosen, end = [], len(sizes)
    for cut in reversed(cuts):
        chosen.append(sizes[end - 1])
        end = cut[end]
    return chosen[::-1]


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _next_power(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _find_column(rows: Iterable[tuple[int, str]], column: str, where: str) -> int:
    for _, line in rows:
        names = [name.strip() for name in next(csv.reader([line]))]
        if column in names:
            return names.index(column)
        raise LengthsError(f"{where} has no column {column!r}; its first line names: {', '.join(names)[:200]}")
    raise LengthsError(f"{where} is empty; expected a first line with the columns' names")


def _tell_columns(cells: Sequence[str], where: str) -> str:
    return (
        f"{where} has {len(cells)} columns ({', '.join(cells)[:80]}), expected one whole number; name the one to plan "
        "by, with --column. Several dimensions are planned one by one, and the recipe's buckets are the combinations"
    )


def _read_length(text: str, where: str) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) > 0:
        return int(text)
    raise LengthsError(f"{where}: found {text[:40]!r}, expected a whole number over 0 of at most {_MOST_DIGITS} digits")
