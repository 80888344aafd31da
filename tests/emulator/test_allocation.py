"""Where inside a process a model goes."""

import pytest
from neuron_emulator.allocation import choose_cores


def place(owned: int, models: list[int]) -> list[tuple[int, ...]]:
    """Return the cores of models of these sizes, loaded one after the other without an argument."""
    loads, placed = [0] * owned, []
    for cores in models:
        [got] = choose_cores(loads, cores)
        for core in got:
            loads[core] += 1
        placed.append(got)
    return placed


@pytest.mark.parametrize(
    ("owned", "models", "expected"),
    [
        (4, [1, 1, 1, 1], [(0,), (1,), (2,), (3,)]),
        (2, [1, 2, 1], [(0,), (0, 1), (1,)]),
        (4, [1] * 6, [(0,), (1,), (2,), (3,), (0,), (1,)]),
        (8, [3, 4, 1], [(0, 1, 2), (3, 4, 5, 6), (7,)]),
        (4, [1, 2, 1], [(0,), (1, 2), (3,)]),
        (1, [1, 1], [(0,), (0,)]),
        (4, [1, 1, 1, 2], [(0,), (1,), (2,), (2, 3)]),
        (4, [4, 4], [(0, 1, 2, 3), (0, 1, 2, 3)]),
    ],
)
def test_models_go_to_the_least_used_cores_in_linear_order(owned, models, expected):
    """Contract 2.11: least-used core in linear order; 1-core, 2-core, 1-core on two cores land on nc0, nc0-nc1, nc1."""
    assert place(owned, models) == expected


@pytest.mark.parametrize(
    ("cores", "start_nc", "nc_count", "expected"),
    [
        (2, 2, -1, [(2, 3)]),
        (3, 0, -1, [(0, 1, 2)]),
        (1, 3, -1, [(3,)]),
        (1, -1, 8, [(core,) for core in range(8)]),
        (2, 2, 4, [(2, 3), (4, 5)]),
        (2, 0, 5, [(0, 1), (2, 3)]),
        (3, -1, 8, [(0, 1, 2), (3, 4, 5)]),
        (1, 0, 1, [(0,)]),
    ],
)
def test_a_start_and_a_count_choose_the_cores(cores, start_nc, nc_count, expected):
    """Contract 2.11: start_nc is process-relative; nc_count gives ``floor(nc_count / cores_per_model)`` copies."""
    assert choose_cores([0] * 8, cores, start_nc=start_nc, nc_count=nc_count) == expected


def test_copies_go_to_the_least_used_range():
    """Contract 2.11: without a start, several copies lie side by side where the fewest models are."""
    assert choose_cores([1, 1, 0, 0], 1, nc_count=2) == [(2,), (3,)]


@pytest.mark.parametrize(("cores", "nc_count"), [(1, 0), (1, -2), (1, 5), (2, 1)])
def test_a_bad_count_is_a_value_error(cores, nc_count):
    """Contract 2.11, 10: ``ValueError`` (bad ``nc_count``)."""
    with pytest.raises(ValueError, match=f"nc_count={nc_count}: expected -1 for one copy, or {cores}"):
        choose_cores([0] * 4, cores, nc_count=nc_count)


def test_a_count_that_does_not_fit_behind_the_start_is_a_value_error():
    """The message has what is left behind the start."""
    with pytest.raises(ValueError, match=r"1 \(the model's NeuronCores\) to 1 \(this process has 4, counted from 3\)"):
        choose_cores([0] * 4, 1, start_nc=3, nc_count=2)


@pytest.mark.parametrize(("cores", "start_nc"), [(1, 4), (1, -2), (2, 3)])
def test_a_bad_start_is_a_runtime_error(cores, start_nc):
    """Contract 2.11: ``RuntimeError``."""
    with pytest.raises(RuntimeError, match=f"start_nc={start_nc}: "):
        choose_cores([0] * 4, cores, start_nc=start_nc)
