"""Placement on cores, where torch-neuron keeps it (AWS docs: archive/torch-neuron/api-core-placement.rst)."""

from neuron_emulator.placement import multicore_context, neuron_cores_context, set_multicore, set_neuron_cores

__all__ = ["multicore_context", "neuron_cores_context", "set_multicore", "set_neuron_cores"]
