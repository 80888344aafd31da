"""``torch.classes.neuron.Runtime``, as public examples of AWS's use it.

AWS docs: src/examples/pytorch/libtorch_demo, torch-neuronx/t5-inference-tutorial.ipynb. Nothing else describes it.
"""

import torch

from neuron_emulator import placement
from neuron_emulator.runtime import get_runtime


class RuntimeHandle:
    """The runtime of this process, seen from a program."""

    def initialize(self) -> None:
        """Take the cores now rather than at the first load."""
        get_runtime()

    def get_visible_nc_count(self) -> int:
        """Return how many cores this process has."""
        return len(get_runtime().cores)

    def set_default_neuron_cores(self, start_nc: int, nc_count: int) -> None:
        """Let modules that are loaded from now on go to ``nc_count`` cores from ``start_nc``; -1 leaves it open."""
        placement.set_default_placement(start_nc, nc_count)


def install_runtime_class() -> None:
    """Make the class known by its documented name; twice is harmless."""
    torch.classes.neuron.Runtime = RuntimeHandle  # type: ignore[attr-defined]
