"""How items are spread over compiled batches: all of them, in order, with the least padding that sizes allow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handlers.artifact import TensorSpec
from handlers.batching import Planner, choose_bucket, pad_batch, pad_sample, plan_batches


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (0, [1, 4], []),
        (1, [1, 4, 8], [(0, 1, 1)]),
        (2, [1, 4, 8], [(0, 2, 4)]),
        (8, [1, 4, 8], [(0, 8, 8)]),
        (11, [1, 4, 8], [(0, 8, 8), (8, 11, 4)]),
        (3, [8], [(0, 3, 8)]),
        (3, [1], [(0, 1, 1), (1, 2, 1), (2, 3, 1)]),
        (9, [4, 1], [(0, 4, 4), (4, 8, 4), (8, 9, 1)]),
    ],
)
def test_the_smallest_size_that_holds_the_rest_is_taken(count, sizes, expected):
    """Full batches of the largest size first, then the smallest that fits."""
    assert plan_batches(count, sizes) == expected


@given(st.integers(0, 200), st.lists(st.integers(1, 32), min_size=1, max_size=5, unique=True))
def test_every_item_runs_exactly_once_and_in_order(count, sizes):
    """Nothing is left out, run twice or put into a batch too small for it."""
    steps = plan_batches(count, sizes)
    assert [n for start, stop, _ in steps for n in range(start, stop)] == list(range(count))
    assert all(stop - start <= size and size in sizes for start, stop, size in steps)


def make_planner(seconds: dict[int, float]) -> Planner:
    planner = Planner(seconds)
    for size, took in seconds.items():
        planner.observe(size, took)
    return planner


LINEAR = {1: 0.010, 2: 0.018, 4: 0.034, 8: 0.066}  # a CPU
FLAT = {1: 0.010, 2: 0.0105, 4: 0.011, 8: 0.012}  # a chip


@pytest.mark.parametrize(
    ("seconds", "count", "sizes"),
    [
        (LINEAR, 5, [4, 1]),
        (LINEAR, 6, [4, 2]),
        (LINEAR, 7, [8]),  # 4, 2 and 1 would save six per cent, which is within the noise of the times
        (LINEAR, 13, [8, 4, 1]),
        (FLAT, 5, [8]),
        (FLAT, 13, [8, 8]),
        ({1: 0.01, 8: 0.2}, 8, [1] * 8),  # a batch that the processor's cache does not hold
        ({1: 1e-6, 2: 2e-6, 4: 4e-6, 8: 8e-6}, 5, [8]),  # a model that is nearly free
    ],
)
def test_items_run_in_the_batches_that_are_sooner_done(seconds, count, sizes):
    """Padding where a larger batch costs little more, further batches where it costs its share."""
    assert [size for _, _, size in make_planner(seconds).plan(count)] == sizes


def test_until_every_size_has_run_the_plain_plan_holds():
    """A size without a time cannot be compared."""
    planner = Planner([1, 4])
    planner.observe(1, 1e-6)
    assert planner.plan(3) == plan_batches(3, [1, 4])


def test_the_shortest_time_of_a_size_counts():
    """A run that had to share its processor changes nothing, a better one does."""
    planner = make_planner(FLAT)
    planner.observe(8, 9.0)
    assert [size for _, _, size in planner.plan(5)] == [8]
    planner.observe(1, 1e-4)
    assert [size for _, _, size in planner.plan(2)] == [1, 1]


def test_a_size_whose_first_run_was_slow_gets_another_chance():
    """A worker starts beside others; what took long then is run again, and taken once it is quick."""
    planner = make_planner({**FLAT, 8: 9.0})
    plans = [[size for _, _, size in planner.plan(8)] for _ in range(32)]
    assert plans[0] == [4, 4]
    assert plans.count([8]) == 2
    planner.observe(8, FLAT[8])
    assert [size for _, _, size in planner.plan(8)] == [8]


@given(
    st.integers(1, 60),
    st.dictionaries(st.integers(1, 16), st.floats(1e-5, 1.0), min_size=1, max_size=5),
)
def test_a_plan_holds_every_item_once_and_is_never_slower_than_the_plain_one(count, seconds):
    """Whatever times were seen."""
    steps = make_planner(seconds).plan(count)
    assert [n for start, stop, _ in steps for n in range(start, stop)] == list(range(count))
    assert all(0 < stop - start <= size and size in seconds for start, stop, size in steps)
    took = [sum(seconds[size] + 150e-6 for _, _, size in each) for each in (steps, plan_batches(count, list(seconds)))]
    assert took[0] <= took[1] * 1.0001


@given(st.integers(1, 8), st.integers(0, 8))
def test_padding_repeats_the_last_item(count, missing):
    """The items stay as they are; what is added is the last one again."""
    tensor = torch.arange(count * 6.0).reshape(count, 2, 3)
    padded = pad_batch(tensor, count + missing)
    assert padded.shape == (count + missing, 2, 3)
    assert torch.equal(padded[:count], tensor)
    assert all(torch.equal(row, tensor[-1]) for row in padded[count:])


def test_a_full_batch_is_not_copied():
    """A batch that needs no padding is handed on as it is."""
    tensor = torch.ones(4, 2)
    assert pad_batch(tensor, 4) is tensor


BUCKETS = [[TensorSpec("ids", "int64", (1, size)), TensorSpec("mask", "int64", (1, size))] for size in (4, 8, 16)]


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (4, 0), (5, 1), (16, 2), (17, None)])
def test_the_smallest_bucket_that_holds_an_item_is_chosen(length, expected):
    """Arrays and tensors alike; none for an item that is longer than all."""
    assert choose_bucket([np.zeros(length), torch.zeros(length)], BUCKETS) == expected


def test_every_input_and_dimension_must_fit():
    """A picture that is short and wide does not fit into the tall and narrow bucket."""
    buckets = [[TensorSpec("image", "float32", (1, 3, *size))] for size in ((64, 16), (16, 64), (64, 64))]
    assert choose_bucket([np.zeros((3, 10, 60))], buckets) == 1
    assert choose_bucket([np.zeros((3, 20, 20))], buckets) == 2
    assert choose_bucket([np.zeros((1, 3, 10, 10))], buckets) is None


def test_a_dimension_without_a_size_holds_everything():
    """What the eager model takes, for golden answers."""
    assert choose_bucket([np.zeros(99)], [[TensorSpec("x", "float32", (1, -1))]]) == 0


@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_an_item_is_padded_with_zeros_at_the_end(make):
    """In every dimension, in its own type; one that fits is left as it is."""
    spec = TensorSpec("image", "float32", (1, 3, 4))
    (padded,) = pad_sample([make((2, 3))], [spec])
    assert np.array_equal(np.asarray(padded), [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    whole = make((3, 4))
    assert pad_sample([whole], [spec])[0] is whole
