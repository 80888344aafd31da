"""What of an item can be left out, and the score of a model as a function of what is left in.

Every method of explaining asks the same: the score of copies of the item in which some features are left out. A copy is
a row of ``presence``, 1 for a feature that is kept and 0 for one that is left out, and captum attributes to these rows.
It never sees the model's own inputs, so that they may be integers, of several kinds, and on any chip.
"""

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from handlers.errors import BadRequest

Tensors = Tuple[torch.Tensor, ...]

_SOME_LABELS = 20  # named to a client that wants one there is not


@dataclass(frozen=True)
class Features:
    """What of an item can be left out, and what then stands in its place."""

    groups: Tuple[np.ndarray, ...]  # for each input, the feature of each value: int, broadcasts to the input; -1: none
    baselines: Tuple[Any, ...]  # for each input, what stands for a value left out; broadcasts to the input
    names: Tuple[Any, ...]  # one for each feature: a token, a column, (row, column) of a grid
    shape: Tuple[int, ...] = ()  # in which features are neighbours, for a sliding window; by default a row
    note: Any = None  # what the answer has to know of the item: whether a text was cut

    @property
    def grid(self) -> Tuple[int, ...]:
        """The shape in which features are neighbours."""
        return self.shape or (len(self.names),)

    def copy(self, inputs: Sequence[Any], presence: np.ndarray) -> Tuple[Any, ...]:
        """Return an item's inputs with only the features that are ``presence``, bool (features,)."""
        # One more, for the values that belong to no feature: -1 is the last.
        kept = np.append(presence.astype(bool), True)
        copies = []
        for values, groups, baseline in zip(inputs, self.groups, self.baselines):
            array = np.asarray(values)
            copies.append(np.where(kept[groups], array, np.asarray(baseline, array.dtype)))
        return tuple(copies)


@dataclass(frozen=True)
class Target:
    """What of a model's outputs is explained."""

    name: Any  # as the answer says it: a label, an output's name
    score: Callable[[Tensors], torch.Tensor]  # activated outputs of N copies -> (N,)


def choose_label(outputs: Tensors, labels: Sequence[str], wanted: Any = None) -> Target:
    """Return the label that a client wants explained, by name or number, or the one with the largest output.

    ``outputs`` are a classifier's for one item: the first (1, labels). Raises ``BadRequest`` for an unknown label.
    """
    if wanted is None:
        index = int(outputs[0][0].argmax())
    elif wanted in labels:
        index = list(labels).index(wanted)
    else:
        text = str(wanted)
        index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else len(labels)
        if index >= len(labels) or isinstance(wanted, bool):
            some = ", ".join(labels[:_SOME_LABELS]) + (", ..." if len(labels) > _SOME_LABELS else "")
            raise BadRequest(
                f"the target is {text[:40]!r}, expected one of {len(labels)} labels ({some}) or its number from 0"
            )
    return Target(labels[index], lambda found: found[0][:, index])


@dataclass(frozen=True)
class Wish:
    """How to explain."""

    method: str
    n_samples: int  # permutations (shapley) or coalitions (kernel_shap)
    n_steps: int  # points on the path of integrated gradients
    window: int  # side of the sliding window (occlusion), in features
    seed: int


@dataclass(frozen=True)
class Explanation:
    """How much each feature of one item counts."""

    values: np.ndarray  # float64 (features,), in units of the score; NaN where time ended before it was computed
    errors: Optional[np.ndarray]  # their standard errors; None for a method that does not sample
    method: str
    target: Any
    score: float  # of the whole item
    baseline_score: float  # with every feature left out
    evaluations: int  # copies that the model computed
    seconds: float
    complete: bool  # False where time ended before all that was asked for was computed
    delta: Optional[float] = None  # integrated gradients: sum of values less the change of the score

    def describe(self) -> Dict[str, Any]:
        """Return all but the features' weights, as JSON holds it."""
        delta = {} if self.delta is None else {"convergence_delta": self.delta}
        return {
            "target": self.target,
            "method": self.method,
            "score": _number(self.score),
            "baseline_score": _number(self.baseline_score),
            "evaluations": self.evaluations,
            "seconds": round(self.seconds, 3),
            "complete": self.complete,
            **delta,
        }

    def weights(self) -> List[Dict[str, Optional[float]]]:
        """Return ``{"weight", "error"}`` for each feature; None for what was not computed."""
        errors = np.full(len(self.values), np.nan) if self.errors is None else self.errors
        return [{"weight": _number(value), "error": _number(error)} for value, error in zip(self.values, errors)]


class Game:
    """The score as a function of which features are present; remembers every coalition and counts the evaluations."""

    def __init__(
        self,
        features: Features,
        inputs: Sequence[Any],
        run: Callable[[List[Tuple[Any, ...]]], Tensors],
        score: Callable[[Tensors], torch.Tensor],
        *,
        batch: int,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compute the score of the whole item and of the one with everything left out, whatever the deadline says.

        ``run`` gives the activated outputs, a row each, of many copies of the item's inputs; ``batch`` is how many it
        takes best at a time, and ``deadline`` the ``clock``'s time after which no further batch is begun.
        """
        self.features, self.inputs, self.batch = features, tuple(inputs), batch
        self.count = len(features.names)
        self.evaluations = 0
        self.complete = True  # whether all was computed that was asked for
        self.skipped: List[np.ndarray] = []  # coalitions that were asked for after the deadline
        self._run, self._score, self._deadline, self._clock = run, score, deadline, clock
        self._known: Dict[bytes, float] = {}
        self._evaluate(np.array([[True] * self.count, [False] * self.count], bool))
        self.score, self.baseline_score = self.play(np.array([[1] * self.count, [0] * self.count]))

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self._clock() >= self._deadline

    def play(self, presence: np.ndarray) -> np.ndarray:
        """Return the scores, float64 (N,), of coalitions (N, features); NaN for those that time did not allow."""
        rows = presence.astype(bool)
        fresh = list({row.tobytes(): row for row in rows if row.tobytes() not in self._known}.values())
        for start in range(0, len(fresh), self.batch):
            if self.is_over:
                self.complete = False
                self.skipped.extend(fresh[start:])
                break
            self._evaluate(np.stack(fresh[start : start + self.batch]))
        return self.recall(rows)

    def recall(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores, float64 (N,), of coalitions, bool (N, features), NaN for those never computed."""
        return np.array([self._known.get(row.tobytes(), np.nan) for row in rows])

    def forward(self, presence: torch.Tensor) -> torch.Tensor:
        """Return the scores of coalitions (N, ...) less that of the empty one, for captum; NaN as in ``play``."""
        scores = self.play(presence.detach().reshape(len(presence), self.count).numpy() > 0.5)
        return torch.from_numpy(scores - self.baseline_score)

    def forward_filled(self, presence: torch.Tensor) -> torch.Tensor:
        """Return the same with the whole item's score for NaN, which would spread to every feature."""
        scores = self.forward(presence)
        return torch.where(torch.isnan(scores), torch.full_like(scores, self.score - self.baseline_score), scores)

    def _evaluate(self, rows: np.ndarray) -> None:
        outputs = self._run([self.features.copy(self.inputs, row) for row in rows])
        scores = self._score(outputs).detach().to(torch.float64).reshape(-1)
        self.evaluations += len(rows)
        self._known.update((row.tobytes(), float(score)) for row, score in zip(rows, scores))


def _number(value: Any) -> Optional[float]:
    """Return what JSON can hold: None for what is not finite."""
    return float(value) if np.isfinite(value) else None
