"""Lets ``import torch.neuron`` work as with the real framework: Python imports this file at its start.

torch-neuron lays a file into torch's own folder; an emulator on a path must not.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``torch.neuron`` as another name of ``torch_neuron``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the alias, and for nothing else."""
        return importlib.util.spec_from_loader(fullname, self) if fullname == "torch.neuron" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the framework's module."""
        import torch_neuron

        return torch_neuron

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been run by its own import."""


sys.meta_path.append(_Alias())
