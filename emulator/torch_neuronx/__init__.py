"""torch-neuronx 2.9.0, the framework of Inferentia 2 and Trainium 1, emulated on a processor from public documentation.

Nothing here is AWS's code, and nothing says how fast a chip would be. Importing it registers the operators; it takes
no core.
"""

from neuron_emulator.data_parallel import DataParallel
from neuron_emulator.modules import install_load_hook
from neuron_emulator.placement import multicore_context, neuron_cores_context, set_multicore, set_neuron_cores

from torch_neuronx import experimental
from torch_neuronx.analysis import analyze
from torch_neuronx.bucketing import BucketModelConfig, bucket_model_trace
from torch_neuronx.compiler import VERSION
from torch_neuronx.loading import async_load, dynamic_batch, lazy_load, move_trace_to_device, replace_weights
from torch_neuronx.partitioner import PartitionerConfig
from torch_neuronx.tracing import trace

__all__ = [
    "EMULATED",
    "BucketModelConfig",
    "DataParallel",
    "PartitionerConfig",
    "__version__",
    "analyze",
    "async_load",
    "bucket_model_trace",
    "dynamic_batch",
    "experimental",
    "lazy_load",
    "move_trace_to_device",
    "multicore_context",
    "neuron_cores_context",
    "replace_weights",
    "set_multicore",
    "set_neuron_cores",
    "trace",
]
__version__ = VERSION
EMULATED = True  # what a program can tell it from the real one by

install_load_hook()
