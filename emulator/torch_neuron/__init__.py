"""torch-neuron 1.13.1, the framework of Inferentia 1, emulated on a processor from AWS's public documentation.

Nothing here is AWS's code, and nothing says how fast a chip would be. Importing it registers the operators and makes
the alias ``torch.neuron``; it takes no core.
"""

import sys

import torch
from neuron_emulator.data_parallel import DataParallel
from neuron_emulator.instances import current_instance
from neuron_emulator.modules import install_load_hook

from torch_neuron import experimental
from torch_neuron.operators import get_supported_operations
from torch_neuron.tracing import Optimization, analyze_model, trace

__all__ = [
    "EMULATED",
    "DataParallel",
    "Optimization",
    "analyze_model",
    "experimental",
    "get_supported_operations",
    "is_available",
    "trace",
]
__version__ = "1.13.1.2.11.13.0+emulator"
EMULATED = True  # what a program can tell it from the real one by


def is_available() -> bool:
    """Whether the emulated host has Inferentia 1 chips."""
    instance = current_instance()
    return instance is not None and instance.family == "inf1"


install_load_hook()
torch.neuron = sys.modules[__name__]  # type: ignore[attr-defined]  # the documented alias
sys.modules.setdefault("torch.neuron", sys.modules[__name__])
