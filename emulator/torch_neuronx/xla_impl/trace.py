"""``trace`` by the path that a public example of AWS's uses (src/examples/pytorch/libtorch_demo)."""

from torch_neuronx.tracing import trace

__all__ = ["trace"]
