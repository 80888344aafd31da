"""How items are spread over compiled batches: all of them, in order, with the least padding that sizes allow."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handlers.batching import pad_batch, plan_batches


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
