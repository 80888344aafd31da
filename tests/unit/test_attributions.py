"""The methods of attribution: what is true of each on models whose answer is known, errors, budgets and repeats."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from handlers.attributions import FORWARD_METHODS, METHODS, Regression, attribute
from handlers.errors import NotOffered
from handlers.features import Features, Game
from tests.explained import make_game, make_wish

WEIGHTS = torch.tensor([2.0, -1.5, 0.5, 0.0, 3.0])
ITEM = np.array([1.0, 2.0, -1.0, 4.0, 0.25], np.float32)
BASELINE = np.array([0.5, 0.0, 1.0, 1.0, 0.0], np.float32)
SHAPLEY = ("shapley", "kernel_shap")


def linear(vectors: torch.Tensor) -> torch.Tensor:
    return vectors @ WEIGHTS


def curved(vectors: torch.Tensor) -> torch.Tensor:
    """Features that work together: a product, and a curve over their sum."""
    return vectors @ WEIGHTS + 3 * vectors[:, 0] * vectors[:, 1] + torch.sin(vectors.sum(dim=1))


def exact_shapley(game: Game) -> np.ndarray:
    """Return Shapley values by their definition, over every coalition."""
    count = game.count
    rows = np.array(list(itertools.product([0, 1], repeat=count)))
    scores = {tuple(row): score for row, score in zip(rows.tolist(), game.play(rows), strict=True)}
    values = np.zeros(count)
    for row in scores:
        for feature in np.nonzero(np.array(row) == 0)[0]:
            weight = math.factorial(sum(row)) * math.factorial(count - sum(row) - 1) / math.factorial(count)
            joined = tuple(1 if place == feature else kept for place, kept in enumerate(row))
            values[feature] += weight * (scores[joined] - scores[row])
    return values


def path(score):
    """Return a score of vectors as a function of presence."""
    start, end = torch.from_numpy(BASELINE), torch.from_numpy(ITEM)
    return lambda presence: score(start + presence * (end - start))


@pytest.mark.parametrize("method", ["ablation", "shapley", "kernel_shap", "integrated_gradients"])
def test_a_linear_model_gives_weights_times_distance(method):
    """Where features do not work together, every method says the same, and those that sample without an error."""
    game = make_game(ITEM, BASELINE, linear)
    values, errors, _ = attribute(game, make_wish(method), path(linear))
    np.testing.assert_allclose(values, WEIGHTS.numpy() * (ITEM - BASELINE), atol=1e-5)
    assert errors is None or errors.max() < 1e-5


@pytest.mark.parametrize("method", SHAPLEY)
@pytest.mark.parametrize("seed", range(2))
def test_sampled_shapley_values_lie_within_their_errors(method, seed):
    """Four standard errors around the exact values hold all of them, and errors are not zero nor huge."""
    game = make_game(ITEM, BASELINE, curved)
    values, errors, _ = attribute(game, make_wish(method, n_samples=300, seed=seed))
    exact = exact_shapley(game)
    assert (np.abs(values - exact) <= 4 * errors + 1e-6).all()
    assert 1e-3 < errors.max() < 0.3 * np.abs(exact).max()


@pytest.mark.parametrize("method", SHAPLEY)
def test_errors_are_as_wide_as_repeats_differ(method):
    """The spread of 25 explanations with other seeds is what each says of itself, within a factor of two."""
    game = make_game(ITEM, BASELINE, curved)
    found = [attribute(game, make_wish(method, n_samples=40, seed=seed)) for seed in range(25)]
    spread = np.std([values for values, _, _ in found], axis=0)
    claimed = np.sqrt(np.mean([errors**2 for _, errors, _ in found], axis=0))
    assert (claimed / spread > 0.5).all()
    assert (claimed / spread < 2).all()


@pytest.mark.parametrize("samples", [1, 3, 50])
def test_shapley_values_add_up(samples):
    """To the change of the score, however few samples there are (efficiency)."""
    game = make_game(ITEM, BASELINE, curved)
    values, _, _ = attribute(game, make_wish("shapley", n_samples=samples))
    assert values.sum() == pytest.approx(game.score - game.baseline_score, abs=1e-5)


def test_kernel_shap_adds_up():
    """The regression's condition; its last feature is no exception."""
    game = make_game(ITEM, BASELINE, curved)
    values, errors, _ = attribute(game, make_wish("kernel_shap"))
    assert values.sum() == pytest.approx(game.score - game.baseline_score, abs=1e-9)
    assert errors[-1] > 0


def test_integrated_gradients_are_complete():
    """They add up to the change of the score but for the delta, which falls with the steps."""
    game = make_game(ITEM, BASELINE, curved)
    deltas = []
    for steps in (5, 200):
        values, _, delta = attribute(game, make_wish("integrated_gradients", n_steps=steps), path(curved))
        assert values.sum() - delta == pytest.approx(game.score - game.baseline_score, abs=1e-4)
        deltas.append(abs(delta))
    assert deltas[1] < 1e-4


def test_a_window_spreads_over_its_features():
    """A feature's occlusion value is the mean over the windows of two that cover it."""
    game = make_game(ITEM, BASELINE, linear)
    values, _, _ = attribute(game, make_wish("occlusion", window=2))
    alone = WEIGHTS.numpy() * (ITEM - BASELINE)
    windows = alone[:-1] + alone[1:]
    expected = [windows[0], *(windows[:-1] + windows[1:]) / 2, windows[-1]]
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_window_larger_than_the_item_covers_all():
    """It leaves everything out at once, and every feature gets the whole change."""
    game = make_game(ITEM, BASELINE, linear)
    values, _, _ = attribute(game, make_wish("occlusion", window=64))
    np.testing.assert_allclose(values, game.score - game.baseline_score, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seconds", [0, 1, 2, 7])
def test_no_batch_begins_after_the_deadline(method, seconds):
    """After the two scores that all need, as many batches as there are seconds, and the answer says so."""
    game = make_game(np.ones(40, np.float32), np.zeros(40, np.float32), lambda v: v.sum(dim=1), seconds=seconds)
    clock = game._clock

    def gradients(presence):
        clock.now += 1
        return presence.sum(dim=1)

    values, _, _ = attribute(game, make_wish(method, n_samples=500), gradients)
    assert game.evaluations <= 2 + seconds * game.batch
    assert not game.complete
    # What time allowed is right, and the rest is no number rather than a zero.
    if method in ("ablation", "shapley"):
        np.testing.assert_allclose(values[np.isfinite(values)], 1, atol=1e-6)
        assert np.isfinite(values).sum() == 4 * seconds


def test_a_round_that_was_cut_off_does_not_count():
    """It would hold only the contributions of the features that came first in it."""
    game = make_game(ITEM, BASELINE, curved, seconds=3)
    once = make_game(ITEM, BASELINE, curved)
    values, errors, _ = attribute(game, make_wish("shapley", n_samples=500))
    rounds = attribute(once, make_wish("shapley", n_samples=1))[0]
    assert not game.complete
    assert values.sum() == pytest.approx(game.score - game.baseline_score, abs=1e-5)
    assert np.isfinite(errors).all() or np.allclose(values, rounds)


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_repeats(method):
    """Bit for bit, whatever was drawn from torch's and numpy's own generators before, which stay as they are."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        found.append(attribute(make_game(ITEM, BASELINE, curved), make_wish(method), path(curved)))
        assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][1] is None) == (method not in SHAPLEY)


def test_other_seeds_draw_other_samples():
    """So that two items are not explained with the same luck."""
    found = [attribute(make_game(ITEM, BASELINE, curved), make_wish("shapley", seed=seed))[0] for seed in (1, 2)]
    assert not np.array_equal(*found)


@pytest.mark.parametrize("method", FORWARD_METHODS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_batch_size_changes_nothing(method, batch):
    """Batches are how coalitions are run, and the values do not depend on it."""
    values = [attribute(make_game(ITEM, BASELINE, curved, batch=size), make_wish(method))[0] for size in (batch, 4)]
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)


@pytest.mark.parametrize("method", FORWARD_METHODS)
def test_a_coalition_is_computed_once(method):
    """Five features have 32 coalitions; asking for more samples costs nothing more."""
    game = make_game(ITEM, BASELINE, curved)
    attribute(game, make_wish(method, n_samples=300))
    assert game.evaluations <= 32


@pytest.mark.parametrize("method", METHODS)
def test_a_lone_feature_takes_the_whole_change(method):
    """A text of one word, a table of one column."""
    game = make_game(ITEM[:1], BASELINE[:1], lambda vectors: vectors.sum(dim=1))
    whole = lambda presence: presence.sum(dim=1) * 0.5  # noqa: E731
    values, _, _ = attribute(game, make_wish(method), whole)
    assert values == pytest.approx([0.5], abs=1e-6)


def test_too_few_coalitions_give_no_values():
    """A regression with more unknowns than equations has no answer, and none is made up."""
    game = make_game(np.ones(30, np.float32), np.zeros(30, np.float32), lambda vectors: vectors.sum(dim=1))
    values, errors, _ = attribute(game, make_wish("kernel_shap", n_samples=5))
    assert np.isnan(values).all()
    assert np.isnan(errors).all()


def test_the_regression_agrees_with_weighted_least_squares():
    """The condition built in gives what the normal equations with a multiplier give."""
    source = np.random.default_rng(0)
    rows = source.integers(0, 2, (50, 4)).astype(np.float64)
    rows = rows[(rows.sum(1) > 0) & (rows.sum(1) < 4)]
    scores = source.normal(size=len(rows))
    model = Regression(1.5)
    model.fit([(torch.from_numpy(rows), torch.from_numpy(scores), None)])
    system = np.block([[rows.T @ rows, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    expected = np.linalg.solve(system, np.append(rows.T @ scores, 1.5))[:4]
    np.testing.assert_allclose(model.values, expected, atol=1e-9)


def test_copies_keep_what_belongs_to_no_feature():
    """Several inputs, integers, groups that broadcast, values that are never touched."""
    tokens, mask = np.array([101, 7, 8, 102]), torch.tensor([1, 1, 1, 1])
    groups = (np.array([-1, 0, 1, -1]), np.array([-1]))
    features = Features(groups, (103, 0), ("seven", "eight"))
    ids, kept = features.copy((tokens, mask), np.array([False, True]))
    assert (ids.tolist(), kept.tolist(), ids.dtype) == ([101, 103, 8, 102], [1, 1, 1, 1], tokens.dtype)


@pytest.mark.parametrize("method", METHODS)
def test_a_server_without_captum_says_what_to_install(method, monkeypatch):
    """An archive does not need it, only explanations do."""
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(NotOffered, match="-m pip install captum"):
        attribute(make_game(ITEM, BASELINE, linear), make_wish(method), path(linear))
