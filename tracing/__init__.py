"""The build half: recipes, tracing, verification, packing and checking. Never part of an archive."""

from tracing.recipe import NEEDED, Input, Recipe, Tolerances

__all__ = ["NEEDED", "Input", "Recipe", "Tolerances"]
