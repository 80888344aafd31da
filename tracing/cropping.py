"""Which dimensions of a model's outputs follow a varying dimension of its inputs, found by running it at two sizes."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import torch

from handlers.artifact import Crop
from handlers.handler import Tensors, as_tuple
from tracing.compiling import generate_inputs
from tracing.recipe import Recipe, sorted_buckets


def find_crops(model: torch.nn.Module, recipe: Recipe) -> tuple[Crop, ...]:
    """Return how the outputs of a padded item are brought back to its own size; empty where nothing varies.

    A dimension counts if it is proportional to one varying dimension and to no other: per-token scores, or a map at
    half the picture's resolution, but not a grid that was flattened.
    """
    if not recipe.buckets:
        return ()
    base = sorted_buckets(recipe)[0]
    before = _run(model, recipe, base)
    followed: dict[tuple[int, int], list[tuple[str, Fraction]]] = {}
    for name in base:
        for place, ratio in _compare(model, recipe, base, name, before):
            followed.setdefault(place, []).append((name, ratio))
    crops = []
    for (output, dimension), causes in sorted(followed.items()):
        if len(causes) == 1:
            name, ratio = causes[0]
            number, varying = _find_input(recipe, name)
            crops.append(Crop(output, dimension, number, varying, ratio.numerator, ratio.denominator))
    return tuple(crops)


def _compare(
    model: torch.nn.Module, recipe: Recipe, base: Mapping[str, int], name: str, before: Tensors
) -> Iterator[tuple[tuple[int, int], Fraction]]:
    """Yield ((output, dimension), ratio to the input's) for what changes with one varying dimension, batch aside."""
    for size in _other_sizes(recipe, base, name):
        try:
            after = _run(model, recipe, {**base, name: size})
        except Exception:  # noqa: S112  a model need not run at sizes that are no bucket of its own
            continue
        for output, (one, other) in enumerate(zip(before, after, strict=True)):
            for dimension, (old, new) in enumerate(zip(one.shape[1:], other.shape[1:], strict=True)):
                if old != new and Fraction(old, base[name]) == Fraction(new, size):
                    yield (output, dimension), Fraction(old, base[name])
        return


def _other_sizes(recipe: Recipe, base: Mapping[str, int], name: str) -> Sequence[int]:
    """Return sizes to try in place of the smallest bucket's: those of other buckets, then half of it."""
    others = sorted({bucket[name] for bucket in recipe.buckets} - {base[name]})
    return [*others, *([base[name] // 2] if base[name] > 1 else [])]


def _find_input(recipe: Recipe, name: str) -> tuple[int, int]:
    """Return the first input and dimension, batch aside, that has the name."""
    return next(
        (number, place)
        for number, each in enumerate(recipe.inputs)
        for place, size in enumerate(each.shape[1:])
        if size == name
    )


def _run(model: torch.nn.Module, recipe: Recipe, bucket: Mapping[str, int]) -> Tensors:
    with torch.inference_mode():
        return as_tuple(model(*generate_inputs(recipe.inputs, 1, seed=0, bucket=bucket)))
