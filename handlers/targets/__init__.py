"""What differs between chips, one module for each, with the same names in every one of them.

``missing(emulated)``         why this target cannot be used here, or None
``host_cores()``              the numbers of the cores this host has
``places()``                  how many workers may share a core
``prepare(cores)``            bind the process to leased cores; before a module is loaded
``compile(model, inputs, options)``  the eager model as a TorchScript module
``load(path, specs)``         a compiled file as a callable on tensors
``versions()``                what decides what ``compile`` gives
``check_options(options)``    faults in a recipe's options for the target
"""

import importlib
from types import ModuleType

from handlers.errors import NoTarget

TARGETS = ("cpu",)


def get_target(name: str) -> ModuleType:
    """Return the module of the target ``name``; raise ``NoTarget`` that lists those there are."""
    if name not in TARGETS:
        raise NoTarget(f"unknown target {name!r}; this version of the kit has {', '.join(TARGETS)}")
    return importlib.import_module(f"handlers.targets.{name}")
