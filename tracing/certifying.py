"""Whether a model keeps its accuracy in a chip's arithmetic, and where it loses it: the precision certificate."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from handlers.handler import Tensors, as_tuple
from tracing.arithmetic import computing_as_chip, load_arithmetic
from tracing.errors import RecipeError, VerificationError
from tracing.layers import LayerError, measure_layers, relative_error
from tracing.recipe import Tolerances

_WORST = 5  # layers that a certificate names
_LAYER_ITEMS = 4  # items that layers are measured on: each takes a run of every layer by itself
_END = 3  # last layers that a failure is tried without, to name those that cause it
# Of an output's spread: values nearer to one another than this are a tie, whose winner is chance. bf16 keeps 8 binary
# digits. The spread and not the magnitude: a constant that is added to all scores must not excuse what it drowns.
_TIE = 2.0**-7
_SHOWN = 6  # faults, and items, that a message names


@dataclass(frozen=True)
class Certificate:
    """What the chip's arithmetic does to a model's outputs, on real and generated items."""

    arithmetic: dict[str, Any]  # the types, as the emulator's ``Arithmetic`` has them
    thresholds: Tolerances
    compared: int  # items
    flips: tuple[int, ...]  # numbers of the items whose largest output is another, and not by a tie
    ties: tuple[int, ...]  # numbers of the items where it is another, as near to the first as the type can tell
    top1: float  # share of outputs whose largest value is in the same place, or tied
    least_cosine: float
    largest_error: float  # absolute
    largest_relative_error: float  # over the largest magnitude of that output
    probability_error: float  # of a row of probabilities: |sum - 1|
    worst_layers: tuple[LayerError, ...]  # by accumulated error
    kept_on_cpu: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """Return the figures under the names that verification uses, rounded to be the same on every build."""
        return {
            "compared": float(self.compared),
            "max_abs_error": _round(self.largest_error),
            "max_rel_error": _round(self.largest_relative_error),
            "min_cosine": round(self.least_cosine, 6),
            "top1_agreement": round(self.top1, 6),
            "max_probability_sum_error": _round(self.probability_error),
        }

    def as_json(self) -> dict[str, Any]:
        """Return the certificate for ``Variant.certificate``: only what JSON holds, two digits of each error."""
        layers = [
            {"name": each.name or "the model", "accumulated": _plain(each.accumulated), "own": _plain(each.own)}
            for each in self.worst_layers
        ]
        return {
            "arithmetic": dict(self.arithmetic),
            "figures": self.figures(),
            "flipped_items": list(self.flips),
            "tied_items": list(self.ties),
            "thresholds": dataclasses.asdict(self.thresholds),
            "worst_layers": layers,
            "kept_on_cpu": list(self.kept_on_cpu),
        }

    def summary(self) -> str:
        """Return the figures as one line for people."""
        worst = self.worst_layers[0] if self.worst_layers else None
        layer = f"; largest in {worst.name or 'the model'} ({_show(worst.accumulated)})" if worst else ""
        return (
            f"{self.compared} items, largest error {self.largest_error:.1e} absolute and "
            f"{self.largest_relative_error:.1e} relative, cosine {self.least_cosine:.6f}, top-1 {self.top1:.3f}{layer}"
        )


def certify(
    model: torch.nn.Module,
    items: Sequence[Tensors],
    *,
    family: str,
    compiler_args: Sequence[str],
    keep_on_cpu: Sequence[str] = (),
    tolerances: Tolerances,
    names: Sequence[str],
    activate: Callable[[Tensors], Tensors],
) -> Certificate:
    """Return the certificate of an eager model under the arithmetic that a compiler's flags ask for.

    ``items`` are preprocessed requests, tuples of tensors without batch dimension; ``names`` are the outputs'. Needs no
    chip and no compiler. Raises ``VerificationError`` beyond ``tolerances``, with the figures, the worst layers and
    what to do.
    """
    try:
        arithmetic = load_arithmetic().from_flags(family, compiler_args)
    except ValueError as exc:
        raise RecipeError(f"targets[{family!r}]", [f"compiler_args: {exc}"]) from exc

    def compare(kept: Sequence[str]) -> _Comparison:
        comparison = _Comparison(names, tolerances)
        for index, item in enumerate(items):
            inputs = tuple(tensor.unsqueeze(0) for tensor in item)
            with torch.no_grad():
                expected = as_tuple(model(*inputs))
            with computing_as_chip(model, arithmetic, kept):
                found = as_tuple(model(*inputs))
            comparison.add(index, expected, found, activate)
        return comparison

    comparison = compare(keep_on_cpu)
    layers = measure_layers(model, items[:_LAYER_ITEMS], arithmetic, keep_on_cpu)
    certificate = comparison.certificate(arithmetic, layers, keep_on_cpu)
    faults = comparison.find_faults()
    if faults:
        end = _find_end(layers, keep_on_cpu, lambda kept: not compare(kept).find_faults())
        raise VerificationError(_explain(certificate, faults, _find_next_steps(certificate, family, end)))
    return certificate


@dataclass
class _Comparison:
    """The worst of each figure so far."""

    names: Sequence[str]
    tolerances: Tolerances
    compared: int = 0
    ranked: int = 0
    flips: list[int] = field(default_factory=list)
    ties: list[int] = field(default_factory=list)
    least_cosine: float = 1.0
    largest_error: float = 0.0
    largest_relative_error: float = 0.0
    probability_error: float = 0.0
    broken: bool = False  # whether NaN or infinity came out
    faults: list[str] = field(default_factory=list)  # of single outputs

    def add(self, index: int, expected: Tensors, found: Tensors, activate: Callable[[Tensors], Tensors]) -> None:
        """Compare the outputs for the item number ``index``; both have a batch dimension of 1."""
        self.compared += 1
        for name, one, other in zip(self.names, expected, found, strict=True):
            if not bool(torch.isfinite(other).all()):
                self.broken = True
                self.faults.append(f"{name} of item {index} holds NaN or infinity, the exact output does not")
            else:
                self._add_errors(index, name, one, other)
        if not self.broken:
            self._add_probabilities(activate(found))

    def _add_errors(self, index: int, name: str, exact: torch.Tensor, found: torch.Tensor) -> None:
        one, other = exact.double().flatten(), found.double().flatten()
        errors = (one - other).abs()
        allowed = self.tolerances.absolute + self.tolerances.relative * one.abs()
        if bool((errors > allowed).any()):
            worst = int((errors - allowed).argmax())
            self.faults.append(
                f"{name} of item {index} is {float(other[worst]):.6g} instead of {float(one[worst]):.6g} "
                f"(at most {float(allowed[worst]):.3g} apart)"
            )
        self.largest_error = max(self.largest_error, float(errors.max()))
        self.largest_relative_error = max(self.largest_relative_error, relative_error(one, other))
        if one.numel() > 1:
            self.ranked += 1
            if int(one.argmax()) != int(other.argmax()):
                (self.ties if is_tie(one, other) else self.flips).append(index)
            if bool(one.any()):
                self.least_cosine = min(self.least_cosine, float(torch.nn.functional.cosine_similarity(one, other, 0)))

    def _add_probabilities(self, outputs: Tensors) -> None:
        row = outputs[0].double().flatten()
        error = abs(float(row.sum()) - 1)
        if bool(((row >= 0) & (row <= 1)).all()) and error < 0.5:
            self.probability_error = max(self.probability_error, error)

    def certificate(self, arithmetic: Any, layers: Sequence[LayerError], kept: Sequence[str]) -> Certificate:
        """Return the figures so far as a certificate. Any: the emulator's ``Arithmetic``."""
        return Certificate(
            arithmetic=dataclasses.asdict(arithmetic),
            thresholds=self.tolerances,
            compared=self.compared,
            flips=tuple(self.flips),
            ties=tuple(self.ties),
            top1=self.top1,
            least_cosine=self.least_cosine,
            largest_error=self.largest_error,
            largest_relative_error=self.largest_relative_error,
            probability_error=self.probability_error,
            worst_layers=tuple(sorted(layers, key=lambda each: -each.accumulated)[:_WORST]),
            kept_on_cpu=tuple(kept),
        )

    @property
    def top1(self) -> float:
        """The share of outputs whose largest value is in the same place."""
        return 1.0 - len(self.flips) / self.ranked if self.ranked else 1.0

    def find_faults(self) -> list[str]:
        """Return what is out of tolerance, those of all items together first."""
        faults = []
        if self.top1 < self.tolerances.top1:
            some = ", ".join(map(str, self.flips[:_SHOWN])) + (", ..." if len(self.flips) > _SHOWN else "")
            faults.append(
                f"the largest output is another for {len(self.flips)} of {self.ranked} (items {some}): top-1 agreement "
                f"{self.top1:.4f}, at least {self.tolerances.top1} is asked for"
            )
        if self.least_cosine < self.tolerances.cosine:
            faults.append(f"cosine is {self.least_cosine:.6f}, at least {self.tolerances.cosine} is asked for")
        if self.probability_error > self.tolerances.absolute:
            faults.append(f"probabilities sum up to 1 only within {self.probability_error:.3g}")
        more = [f"and {len(self.faults) - _SHOWN} more"] if len(self.faults) > _SHOWN else []
        return faults + self.faults[:_SHOWN] + more


def is_tie(exact: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether the place that ``found`` has its largest value in is, in ``exact``, as good as the first one."""
    lost = float(exact.max() - exact.flatten()[int(found.argmax())])
    return lost <= _TIE * float(exact.max() - exact.min())


def _find_end(
    layers: Sequence[LayerError], kept: Sequence[str], passes: Callable[[Sequence[str]], bool]
) -> tuple[str, ...]:
    """Return the fewest last layers with which off the chip the model passes; empty if none of the last three do."""
    for count in range(1, _END + 1):
        end = tuple(dict.fromkeys((*(each.name for each in layers[-count:]), *kept)))
        if "" not in end and len(end) > len(kept) and passes(end):
            return end
    return ()


def _explain(certificate: Certificate, faults: Sequence[str], steps: Sequence[str]) -> str:
    types = certificate.arithmetic
    worst = "; ".join(
        f"{each.name or 'the model'} {_show(each.accumulated)} (own {_show(each.own)})"
        for each in certificate.worst_layers
    )
    return (
        f"the model loses its accuracy in the chip's arithmetic ({types['matmul']} products, {types['others']} "
        f"elsewhere): {'; '.join(faults)}. Largest error {certificate.largest_error:.3g} absolute, "
        f"{certificate.largest_relative_error:.3g} relative; cosine {certificate.least_cosine:.6f}; top-1 "
        f"{certificate.top1:.4f}. Worst layers by accumulated relative error: {worst}. Next: {'; '.join(steps)}"
    )


def _find_next_steps(certificate: Certificate, family: str, end: Sequence[str]) -> list[str]:
    steps = []
    if end:
        steps.append(f"the error arises at the end: with keep_on_cpu={tuple(end)!r} it is within tolerance")
    if certificate.arithmetic["others"] != "fp32":
        steps.append(f"targets[{family!r}] = {{'cast': 'matmult'}} casts the operands of products only, 'none' less")
    elif certificate.arithmetic["matmul"] != "fp32" and family == "inf2":
        steps.append("targets['inf2'] = {'cast': 'none'} computes in fp32, slower")
    broken = any(math.isinf(each.accumulated) for each in certificate.worst_layers)
    if broken and not certificate.arithmetic["saturate_infinity"]:
        steps.append("for NaN from infinity, mask with -1e4, or add '--enable-saturate-infinity' to compiler_args")
    steps.append("widen chip_tolerances only if these figures are acceptable")
    return steps


def _round(value: float) -> float:
    # Two digits: enough to judge by, few enough to be the same on machines that add in another order.
    return float(f"{value:.1e}")


def _plain(value: float) -> float | str:
    return _round(value) if math.isfinite(value) else _show(value)  # JSON has no infinity


def _show(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "overflow"
