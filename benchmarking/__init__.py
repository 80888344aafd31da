"""Measuring: which form of a model is fastest, side by side in one run."""
