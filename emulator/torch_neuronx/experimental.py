"""Placement on cores, where earlier releases of torch-neuronx kept it."""

from neuron_emulator.placement import multicore_context, neuron_cores_context, set_multicore, set_neuron_cores

__all__ = ["multicore_context", "neuron_cores_context", "set_multicore", "set_neuron_cores"]
