"""Whether a compiled model gives the eager model's numbers: alone, in mixed batches, with other neighbours."""

from collections.abc import Callable, Mapping, Sequence

import torch

from handlers.handler import Tensors, as_tuple
from tracing.errors import VerificationError
from tracing.recipe import Tolerances

Run = Callable[..., Tensors]


def verify_model(
    eager: Run,
    runs: Mapping[int, Run],
    items: Sequence[Tensors],
    *,
    names: Sequence[str],
    tolerances: Tolerances,
    activate: Callable[[Tensors], Tensors],
    is_tie: Callable[[torch.Tensor, torch.Tensor], bool] = lambda exact, found: False,
) -> dict[str, float]:
    """Return the figures of the comparison; raise ``VerificationError`` where one is out of tolerance.

    ``is_tie`` says of an exact and a found output whether the other's largest value is as good as its own.

    ``eager`` is the reference and sees each of ``items`` (tuples of tensors without batch dimension) alone. Each of
    ``runs`` (batch size -> compiled model) sees all items twice, the second time in reverse order, so that every item
    has two sets of neighbours: a model that leaks across a batch cannot match both.
    """
    with torch.inference_mode():
        expected = [as_tuple(eager(*(tensor.unsqueeze(0) for tensor in item))) for item in items]
    _verify_independence(eager, items, expected, tolerances)
    figures = _Figures(names, tolerances, is_tie)
    for size, run in sorted(runs.items()):
        for order in (range(len(items)), range(len(items) - 1, -1, -1)):
            for picked in _chunks(list(order), size):
                batch = tuple(torch.stack(column) for column in zip(*(items[index] for index in picked), strict=True))
                found = run(*batch)
                for row, index in enumerate(picked):
                    figures.add(expected[index], tuple(out[row : row + 1] for out in found), size)
    figures.add_activated([activate(each) for each in expected])
    return figures.judge()


class _Figures:
    """The worst of each figure so far, and where it was seen."""

    def __init__(
        self, names: Sequence[str], tolerances: Tolerances, is_tie: Callable[[torch.Tensor, torch.Tensor], bool]
    ) -> None:
        self.is_tie = is_tie
        self.names = names
        self.tolerances = tolerances
        self.largest_error = 0.0  # absolute
        self.largest_relative_error = 0.0  # over the largest magnitude of that output
        self.least_cosine = 1.0
        self.compared = 0
        self.same_top = 0
        self.ranked = 0
        self.activation_error = 0.0
        self.faults: list[str] = []

    def add(self, expected: Tensors, found: Tensors, size: int) -> None:
        """Compare the outputs for one item; both have a batch dimension of 1."""
        self.compared += 1
        for name, one, other in zip(self.names, expected, found, strict=True):
            where = f"{name} in a batch of {size}"
            if one.shape != other.shape:
                self.faults.append(f"{where} has shape {list(other.shape)}, the eager model's {list(one.shape)}")
                continue
            one, other = one.double().flatten(), other.double().flatten()
            if not torch.isfinite(other).all():
                self.faults.append(f"{where} holds NaN or infinity, the eager model's does not")
                continue
            self._add_errors(one, other, where)

    def add_activated(self, outputs: Sequence[Tensors]) -> None:
        """Note how far rows of probabilities are from a sum of 1, where the handler makes probabilities."""
        for each in outputs:
            row = each[0].double().flatten()
            if bool(((row >= 0) & (row <= 1)).all()) and abs(float(row.sum()) - 1) < 0.1:
                self.activation_error = max(self.activation_error, abs(float(row.sum()) - 1))

    def judge(self) -> dict[str, float]:
        """Return the figures, or raise ``VerificationError`` with all faults."""
        agreement = self.same_top / self.ranked if self.ranked else 1.0
        faults = []  # of all items together, before those of single numbers
        if agreement < self.tolerances.top1:
            faults.append(f"top-1 agreement is {agreement:.4f}, at least {self.tolerances.top1} is asked for")
        if self.least_cosine < self.tolerances.cosine:
            faults.append(f"cosine is {self.least_cosine:.6f}, at least {self.tolerances.cosine} is asked for")
        faults += self.faults
        if faults:
            shown = faults[:6] + ([f"and {len(faults) - 6} more"] if len(faults) > 6 else [])
            raise VerificationError(
                "the compiled model does not give the eager model's numbers: "
                + "; ".join(shown)
                + f". Largest error {self.largest_error:.3g} absolute, {self.largest_relative_error:.3g} relative. "
                "Widen the recipe's tolerances only if these figures are acceptable"
            )
        # Two digits: enough to judge by, few enough to be the same on machines that round differently.
        return {
            "compared": float(self.compared),
            "max_abs_error": _round(self.largest_error),
            "max_rel_error": _round(self.largest_relative_error),
            "min_cosine": round(self.least_cosine, 6),
            "top1_agreement": round(agreement, 6),
            "max_probability_sum_error": _round(self.activation_error),
        }

    def _add_errors(self, one: torch.Tensor, other: torch.Tensor, where: str) -> None:
        errors = (one - other).abs()
        allowed = self.tolerances.absolute + self.tolerances.relative * one.abs()
        over = errors - allowed
        if bool((over > 0).any()):
            worst = int(over.argmax())
            self.faults.append(
                f"{where}: {float(other[worst]):.6g} where the eager model gives {float(one[worst]):.6g} "
                f"(at most {float(allowed[worst]):.3g} apart)"
            )
        scale = float(one.abs().max())
        self.largest_error = max(self.largest_error, float(errors.max()))
        self.largest_relative_error = max(self.largest_relative_error, float(errors.max()) / scale if scale else 0.0)
        if one.numel() > 1:
            self.ranked += 1
            self.same_top += int(one.argmax() == other.argmax() or self.is_tie(one, other))
            if scale:
                cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
                self.least_cosine = min(self.least_cosine, cosine)


def _verify_independence(
    eager: Run, items: Sequence[Tensors], expected: Sequence[Tensors], tolerances: Tolerances
) -> None:
    """Raise ``VerificationError`` if the eager model's answer to an item depends on its neighbours in the batch."""
    with torch.inference_mode():
        batch = tuple(torch.stack(column) for column in zip(*items, strict=True))
        together = as_tuple(eager(*batch))
    for index, alone in enumerate(expected):
        for one, other in zip(alone, together, strict=True):
            error = float((one[0].double() - other[index].double()).abs().max())
            scale = float(one.double().abs().max())
            # Ten times the tolerance: kernels for one and for many items round differently.
            if error > 10 * (tolerances.absolute + tolerances.relative * scale):
                raise VerificationError(
                    f"the model mixes the items of a batch: item {index} alone and with {len(items) - 1} others "
                    f"differs by {error:.3g}. One client's answer would depend on another's request; look for a "
                    "reduction or normalisation over dimension 0"
                )


def _chunks(indices: list[int], size: int) -> list[list[int]]:
    """Split into lists of ``size``; the last is filled up from the beginning."""
    padded = indices + [indices[n % len(indices)] for n in range(-len(indices) % size)]
    return [padded[start : start + size] for start in range(0, len(padded), size)]


def _round(value: float) -> float:
    return float(f"{value:.1e}")
