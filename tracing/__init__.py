"""The build half: recipes, tracing, verification, packing and checking. Never part of an archive."""

from tracing.recipe import Input, Recipe, Tolerances

__all__ = ["Input", "Recipe", "Tolerances"]
