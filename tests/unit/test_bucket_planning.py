"""The bucket planner: equal to trying everything, and what holds for every plan."""

import itertools
import random
import time
from collections import Counter

import pytest

from tracing.bucket_planning import (
    attention_cost,
    limit_lengths,
    linear_cost,
    list_powers,
    measure_buckets,
    plan_buckets,
    plan_powers,
    read_lengths,
)
from tracing.errors import LengthsError

COSTS = {"linear": linear_cost, "attention": attention_cost(4)}


def draw_lengths(rng: random.Random) -> Counter[int]:
    """Return a sample of 1 to 60 items with at most 9 lengths."""
    choices = rng.sample(range(1, 40), rng.randint(1, 9))
    return Counter(rng.choice(choices) for _ in range(rng.randint(1, 60)))


def least_padding(lengths, most, cost, multiple, largest):
    """Return the least padding of all ways to choose at most ``most`` multiples, by trying each."""
    last = -(-max(max(lengths), largest or 0) // multiple) * multiple
    below = list(range(multiple, last, multiple))
    found = []
    for used in range(min(most, len(below) + 1)):
        for chosen in itertools.combinations(below, used):
            sizes = (*chosen, last)
            padded = sum(count * cost(min(s for s in sizes if s >= length)) for length, count in lengths.items())
            found.append(padded - sum(count * cost(length) for length, count in lengths.items()))
    return min(found)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("block", range(5))
def test_plans_waste_as_little_as_the_best_of_all_choices(name, block):
    """On 500 seeded cases for each cost: every multiple up to the longest length is tried as a bucket."""
    rng = random.Random(100 + block)
    for _ in range(100):
        lengths, most, multiple = draw_lengths(rng), rng.randint(1, 4), rng.choice([2, 3, 4, 7])
        largest = rng.choice([None, rng.randint(1, 45)])
        plan = plan_buckets(lengths, most, cost=COSTS[name], multiple=multiple, largest=largest)[-1]
        assert plan.padding == least_padding(lengths, most, COSTS[name], multiple, largest), (lengths, most, multiple)


@pytest.mark.parametrize("name", COSTS)
def test_plans_of_single_steps_waste_as_little_as_the_best_choice_of_lengths(name):
    """Without a multiple a best bucket ends at a length that occurs, so that trying those is enough; 500 cases."""
    rng = random.Random(7)
    for _ in range(500):
        lengths, most = draw_lengths(rng), rng.randint(1, 5)
        last = max(lengths)
        tried = [
            measure_buckets(lengths, (*chosen, last), cost=COSTS[name]).padding
            for used in range(min(most, len(lengths)))
            for chosen in itertools.combinations(sorted(set(lengths) - {last}), used)
        ]
        assert plan_buckets(lengths, most, cost=COSTS[name])[-1].padding == min(tried), (lengths, most)


@pytest.mark.parametrize("name", COSTS)
def test_more_buckets_never_waste_more(name):
    """The plans for 1, 2, 3... buckets get cheaper, down to nothing where each length has its own."""
    lengths = draw_lengths(random.Random(3))
    paddings = [plan.padding for plan in plan_buckets(lengths, 20, cost=COSTS[name])]
    assert paddings == sorted(paddings, reverse=True)
    assert (len(paddings), paddings[-1]) == (len(lengths), 0)


@pytest.mark.parametrize(
    ("most", "multiple", "largest", "last"), [(1, 1, None, 37), (3, 8, None, 40), (2, 1, 64, 64), (2, 16, 65, 80)]
)
def test_the_largest_bucket_holds_the_longest_length(most, multiple, largest, last):
    """And the length asked for, rounded up to the multiple, also where nothing of the sample is as long."""
    plan = plan_buckets(Counter([1, 5, 5, 20, 37]), most, multiple=multiple, largest=largest)[-1]
    assert plan.sizes[-1] == last
    assert all(size % multiple == 0 for size in plan.sizes)
    assert sum(plan.items) == 5


def test_a_plan_counts_items_work_and_padding():
    """Two of length 3 and one of 5 in buckets 4 and 8: 11 values of work, 5 of padding."""
    plan = measure_buckets(Counter([3, 3, 5]), [4, 8])
    assert (plan.items, plan.work, plan.padding) == ((2, 1), 11, 5)
    assert (plan.waste, plan.padding_share) == (5 / 11, 5 / 16)


def test_buckets_too_small_for_the_sample_are_refused():
    """A plan holds every item."""
    with pytest.raises(LengthsError, match="the largest bucket is 8, the longest length 9; add a larger one"):
        measure_buckets({9: 1}, [4, 8])


def test_attention_cost_is_in_proportion_to_a_layers_multiply_adds():
    """12 L H^2 + 2 L^2 H over 2 H, for MiniLM's width at two lengths."""
    cost, hidden = attention_cost(384), 384
    for length in (16, 512):
        assert 2 * hidden * cost(length) == 12 * length * hidden**2 + 2 * length**2 * hidden


@pytest.mark.parametrize(("longest", "powers"), [(1, [16]), (16, [16]), (17, [16, 32]), (100, [16, 32, 64, 128])])
def test_powers_of_two_start_at_16_and_hold_the_longest(longest, powers):
    """They are what many serving systems take without measuring."""
    assert list_powers(longest) == powers


def test_the_best_powers_of_two_are_the_best_of_all_choices_of_them():
    """200 seeded cases against trying each choice that holds the longest length."""
    rng = random.Random(5)
    for _ in range(200):
        lengths, most = Counter(rng.randint(1, 300) for _ in range(30)), rng.randint(1, 4)
        powers = list_powers(max(lengths))
        tried = [
            measure_buckets(lengths, (*chosen, powers[-1])).padding
            for used in range(min(most, len(powers)))
            for chosen in itertools.combinations(powers[:-1], used)
        ]
        assert plan_powers(lengths, most)[1].padding == min(tried)


def test_a_plan_is_never_worse_than_as_many_powers_of_two():
    """It may take any sizes, so it may take those."""
    rng = random.Random(11)
    for _ in range(50):
        lengths = Counter(min(512, 1 + int(rng.lognormvariate(3.5, 0.8))) for _ in range(200))
        assert plan_buckets(lengths, 4)[-1].padding <= plan_powers(lengths, 4)[1].padding


def test_20000_distinct_lengths_are_planned_in_seconds():
    """Time grows with the number of distinct lengths, not with its square, which would take minutes here."""
    rng = random.Random(2)
    lengths = Counter({length: rng.randint(1, 9) for length in rng.sample(range(1, 10**6), 20_000)})
    began = time.process_time()
    plan_buckets(lengths, 8, cost=attention_cost(768))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(("truncate", "kept"), [(False, {3: 2, 8: 1}), (True, {3: 2, 8: 4})])
def test_longer_items_are_left_out_or_counted_as_cut(truncate, kept):
    """By what the recipe does with them."""
    assert limit_lengths({3: 2, 8: 1, 9: 1, 20: 2}, 8, truncate=truncate) == (kept, 3)


def test_a_limit_below_every_length_is_refused():
    """There would be nothing to plan for."""
    with pytest.raises(LengthsError, match="all lengths are over 4, the shortest is 5"):
        limit_lengths({5: 1, 9: 1}, 4)


@pytest.mark.parametrize(
    ("text", "column", "lengths"),
    [
        ("3\n5\n3\n", None, {3: 2, 5: 1}),
        ("  3 \n\n007\n", None, {3: 1, 7: 1}),
        ("id,tokens\na,3\nb,5\n", "tokens", {3: 1, 5: 1}),
        ('text,tokens\n"one, two",2\n', "tokens", {2: 1}),
        (" tokens \n4", "tokens", {4: 1}),
    ],
)
def test_lengths_are_read_from_lines_and_from_columns(text, column, lengths):
    """Blanks and empty lines do not matter, quoted commas are no separators."""
    assert read_lengths(text.splitlines(), column=column) == lengths


@pytest.mark.parametrize(
    ("text", "column", "fault"),
    [
        ("3\n5.5\n", None, "sample, line 2: found '5.5', expected a whole number over 0"),
        ("3\n\n-1\n", None, "sample, line 3: found '-1'"),
        ("0\n", None, "sample, line 1: found '0'"),
        ("tokens\n3\n", None, "sample, line 1: found 'tokens'"),
        ("\u0663\n", None, "sample, line 1: found"),
        ("9" * 5000, None, "expected a whole number over 0 of at most 9 digits"),
        ("a,b\n1,x\n", "b", "sample, line 2: found 'x'"),
        ("a,b\n1\n", "b", "sample, line 2: found ''"),
        ("a,b\n1,2\n", "c", "sample has no column 'c'; its first line names: a, b"),
        ("", "c", "sample is empty"),
        ("\n\n", None, "sample holds no lengths"),
        ("a\n", "a", "sample holds no lengths"),
        ("640,480\n", None, "line 1 has 2 columns .* planned one by one"),
    ],
)
def test_a_wrong_sample_is_named_by_line_and_value(text, column, fault):
    """Whoever made the file finds the line."""
    with pytest.raises(LengthsError, match=fault):
        read_lengths(text.splitlines(), column=column, where="sample")
