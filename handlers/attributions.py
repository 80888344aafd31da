"""How much each feature of one item counts for a model's score, by captum's methods over which features are present."""

import importlib
import sys
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np
import torch

from handlers.errors import NotOffered
from handlers.features import Game, Tensors, Wish

Values = Tuple[np.ndarray, Optional[np.ndarray]]  # of each feature, and their standard errors where there are any

FORWARD_METHODS = ("occlusion", "ablation", "shapley", "kernel_shap")
GRADIENT_METHODS = ("integrated_gradients",)
METHODS = FORWARD_METHODS + GRADIENT_METHODS
_COARSE_STEPS = 8  # of integrated gradients, computed first: an answer where time ends before the wanted steps


def attribute(game: Game, wish: Wish, gradients: Optional[Callable[[torch.Tensor], torch.Tensor]] = None) -> Any:
    """Return (values, errors, delta) of a game by the method that is wished for.

    ``gradients`` is the score as a differentiable function of presence, float (N, features). Raises ``NotOffered``
    without captum.
    """
    if wish.method == "integrated_gradients" and gradients is not None:
        return _integrate(game, wish, gradients)
    methods = {"occlusion": _occlude, "ablation": _ablate, "shapley": _sample_shapley, "kernel_shap": _fit_shapley}
    return (*methods[wish.method](game, wish), None)


def _ablate(game: Game, wish: Wish) -> Values:
    """Return how much the score falls when each feature is left out alone: an evaluation for each."""
    explainer = _captum("FeatureAblation")(game.forward_filled)
    values = explainer.attribute(torch.ones(1, game.count), perturbations_per_eval=game.batch)
    return _without_skipped(game, values), None


def _occlude(game: Game, wish: Wish) -> Values:
    """Return the mean fall of the score over all places of a window that covers the feature, moved by one feature."""
    shape = game.features.grid
    window = tuple(min(wish.window, side) for side in shape)
    explainer = _captum("Occlusion")(game.forward_filled)
    values = explainer.attribute(
        torch.ones(1, *shape), sliding_window_shapes=window, strides=1, perturbations_per_eval=game.batch
    )
    return _without_skipped(game, values), None


def _without_skipped(game: Game, values: torch.Tensor) -> np.ndarray:
    """Return captum's values with NaN for each feature whose leaving out was not fully computed."""
    found = values.detach().to(torch.float64).reshape(-1).numpy().copy()
    for row in game.skipped:
        found[~row] = np.nan
    return found


def _sample_shapley(game: Game, wish: Wish) -> Values:
    """Return the mean of a feature's contributions over random orders of all features, and its standard error."""
    explainer = _captum("ShapleyValueSampling")(game.forward_filled)
    source = np.random.default_rng(wish.seed)
    rounds: List[np.ndarray] = []
    for _ in range(wish.n_samples):
        order = source.permutation(game.count).tolist()
        explainer.permutation_generator = lambda features, samples, order=order: [order]
        values = explainer.attribute(torch.ones(1, game.count), n_samples=1, perturbations_per_eval=game.batch)
        if not game.complete:
            # A round that was cut off would favour the features that came early in it; the first is all there is.
            return _summarise(rounds or [_first_round(game, order)])
        rounds.append(values.detach().to(torch.float64).reshape(-1).numpy())
    return _summarise(rounds)


def _summarise(rounds: Sequence[np.ndarray]) -> Values:
    """Return the mean over independent rounds and its standard error; NaN for the error of a lone round."""
    table = np.stack(rounds)
    if len(rounds) == 1:
        return table[0], np.full(table.shape[1], np.nan)
    errors: np.ndarray = table.std(axis=0, ddof=1) / np.sqrt(len(rounds))
    return table.mean(axis=0), errors


def _first_round(game: Game, order: Sequence[int]) -> np.ndarray:
    """Return the contributions, in one order, of the features that were reached in time; NaN for the others."""
    place = np.argsort(order)
    reached = game.recall(place[None, :] < np.arange(game.count + 1)[:, None])
    values: np.ndarray = np.diff(reached)[place]
    return values


def _fit_shapley(game: Game, wish: Wish) -> Values:
    """Return Shapley values by a linear regression over random coalitions, with the regression's standard errors."""
    if game.count == 1:
        return np.array([game.score - game.baseline_score]), np.zeros(1)
    model = Regression(game.score - game.baseline_score)
    computed: List[Tensors] = []

    def forward(presence: torch.Tensor) -> torch.Tensor:
        computed.append((presence, game.forward(presence)))
        if not game.complete:
            raise _OutOfTime  # captum would draw all the others yet
        return computed[-1][1]

    explainer = _captum("KernelShap")(forward)
    explainer.interpretable_model = model  # captum's own needs scikit-learn, and gives no errors
    # Two more, because captum begins with the whole and the empty coalition.
    wanted = {"n_samples": wish.n_samples + 2, "perturbations_per_eval": game.batch, "return_input_shape": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(wish.seed)
        try:
            explainer.attribute(torch.ones(1, game.count), **wanted)
        except _OutOfTime:
            model.fit(computed)
    return model.values, model.errors


class _OutOfTime(Exception):
    """Ends a method of captum's early."""


class Regression:
    """A linear model for captum's KernelShap: least squares under the condition that the values add up.

    Coalitions come drawn by the Shapley kernel, so that each counts the same (Lundberg and Lee 2017, theorem 2). Errors
    are the regression's own, robust to unequal spread (White 1980, with the small-sample factor n / (n - k)).
    """

    def __init__(self, total: float) -> None:
        """``total`` is what the values have to add up to."""
        self.total = total
        self.values, self.errors = np.zeros(0), np.zeros(0)

    def fit(self, batches: Any, **options: Any) -> None:
        """Fit to batches of (presence (N, features), score less the empty coalition's, weight)."""
        parts = [[np.asarray(each, np.float64) for each in batch[:2]] for batch in batches]
        presence = np.concatenate([part[0].reshape(len(part[0]), -1) for part in parts])
        scores = np.concatenate([part[1].reshape(-1) for part in parts])
        count = presence.shape[1]
        inner = (presence.sum(axis=1) % count != 0) & np.isfinite(scores)
        # The last feature's value is the total less the others', which leaves one unknown fewer and no condition.
        basis = np.vstack([np.eye(count - 1), -np.ones(count - 1)])
        columns = presence[inner] @ basis
        wanted = scores[inner] - presence[inner, -1] * self.total
        self.values, self.errors = np.full(count, np.nan), np.full(count, np.nan)
        if len(columns) == 0 or np.linalg.matrix_rank(columns) < count - 1:
            return  # too few coalitions to tell the features apart
        solution = np.linalg.lstsq(columns, wanted, rcond=None)[0]
        self.values = basis @ solution + np.eye(count)[-1] * self.total
        spare = len(columns) - (count - 1)
        if spare > 0:
            residuals = wanted - columns @ solution
            inverse = np.linalg.pinv(columns.T @ columns)
            middle = (columns * (residuals**2)[:, None]).T @ columns * len(columns) / spare
            covariance = basis @ inverse @ middle @ inverse @ basis.T
            self.errors = np.sqrt(np.clip(np.diag(covariance), 0, None))

    def representation(self) -> torch.Tensor:
        """Return the values, float32 (1, features), as captum asks for them."""
        return torch.from_numpy(self.values).to(torch.float32).unsqueeze(0)


def _integrate(game: Game, wish: Wish, gradients: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return integrated gradients along the straight path from all left out to the whole item, and captum's delta.

    The presence of a feature scales its values' distance from the baseline, so that the gradient by presence is the sum
    of distance times gradient over the feature's values.
    """
    explainer = _captum("IntegratedGradients")(_Counted(game, gradients))
    values, delta = np.full(game.count, np.nan), None
    for steps in sorted({min(_COARSE_STEPS, wish.n_steps), wish.n_steps}):
        try:
            with torch.enable_grad():
                found, gap = explainer.attribute(
                    torch.ones(1, game.count),
                    n_steps=steps,
                    internal_batch_size=game.batch,
                    return_convergence_delta=True,
                )
        except _OutOfTime:
            game.complete = False
            break
        values, delta = found.detach().to(torch.float64).reshape(-1).numpy(), float(gap)
    return values, None, delta


class _Counted:
    """A function of presence that counts as a game's evaluations do, and ends with its time."""

    def __init__(self, game: Game, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.game, self.function = game, function

    def __call__(self, presence: torch.Tensor) -> torch.Tensor:
        if self.game.is_over:
            raise _OutOfTime
        self.game.evaluations += len(presence)
        return self.function(presence)


def _captum(name: str) -> Any:
    """Return a class of ``captum.attr``; raise ``NotOffered`` where captum is missing."""
    try:
        # By name: captum is no dependency of an archive, and takes a second to import.
        return getattr(importlib.import_module("captum.attr"), name)
    except ImportError as exc:
        raise NotOffered(
            f"explanations need captum, which this server's Python lacks ({exc}); install it where TorchServe runs: "
            f"{sys.executable} -m pip install captum"
        ) from exc
