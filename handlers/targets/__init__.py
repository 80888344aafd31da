"""What differs between chips, one module for each, with the same names in every one of them.

``missing(emulated)``         why a variant for this target cannot be used here, or None
``core_kind()``               the name that leases on its cores go by
``host_cores()``              the numbers of the cores this host has
``places()``                  how many workers may share a core
``prepare(cores)``            bind the process to leased cores; before a module is loaded
``check_options(options)``    faults in a recipe's options for the target
``cores_per_worker(options, parameters, default)``  how many cores a worker leases
``compiled_batch(batch, sizes, options)``  the batch size to compile where ``batch`` items are to run
``compile(model, inputs, options)``  the eager model as a TorchScript module
``is_emulated()``             whether ``compile`` gives what runs on an emulator only
``load(path, specs, options)``  a compiled file as a callable on tensors
``versions()``                what decides what ``compile`` gives
"""

import importlib
from types import ModuleType

from handlers.errors import NoTarget

TARGETS = ("cpu", "inf1", "inf2")


def get_target(name: str) -> ModuleType:
    """Return the module of the target ``name``; raise ``NoTarget`` that lists those there are."""
    if name not in TARGETS:
        raise NoTarget(f"unknown target {name!r}; this version of the kit has {', '.join(TARGETS)}")
    return importlib.import_module(f"handlers.targets.{name}")
