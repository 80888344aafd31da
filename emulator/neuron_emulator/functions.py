"""Functions and methods as modules, which is what TorchScript traces and saves."""

import inspect
from collections.abc import Callable
from typing import Any

import torch


def as_module(function: Callable[..., Any]) -> torch.nn.Module:
    """Return a module of which ``forward`` is ``function``; a module is returned as it is.

    Modules that a method belongs to, or that a function uses by name, become submodules: their weights are weights of
    the result. TorchScript refuses tensors that require gradients as constants.
    """
    if isinstance(function, torch.nn.Module):
        return function
    owner = getattr(function, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        return _Method(owner, function.__name__)
    return _Function(function)


class _Function(torch.nn.Module):
    """A function, and the modules that it uses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.used = torch.nn.ModuleList(_find_modules(function))

    def forward(self, *inputs: Any) -> Any:
        """Return what the function returns."""
        return self.function(*inputs)


class _Method(torch.nn.Module):
    """A method of a module."""

    def __init__(self, owner: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.function = owner
        self.name = name

    def forward(self, *inputs: Any) -> Any:
        """Return what the method returns."""
        return getattr(self.function, self.name)(*inputs)


def _find_modules(function: Callable[..., Any]) -> list[torch.nn.Module]:
    """Return the modules that a Python function reads from the scopes around it."""
    if not inspect.isfunction(function):
        return []
    scopes = inspect.getclosurevars(function)
    found = [*scopes.nonlocals.values(), *scopes.globals.values()]
    return [each for each in found if isinstance(each, torch.nn.Module)]
