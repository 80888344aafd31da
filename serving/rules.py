"""AWS's published rules of thumb for models on NeuronCores: where to begin, not what was measured."""

import math

from handlers.neuron import pipeline_cores

PIPELINE_SOURCE = "AWS docs: about-neuron/arch/neuron-features/neuroncore-pipeline.rst"
BUCKETS_SOURCE = "AWS docs: archive/appnotes/torch-neuron/bucketing-app-note.rst"
BATCH_SOURCE = "AWS docs: about-neuron/arch/neuron-features/neuroncore-batching.rst"
# Operations (bf16) and bytes of device memory a second of one chip. AWS docs: about-neuron/arch/neuron-hardware/
# {inferentia,inferentia2}.rst. These write GiB; the worked examples of the batching page, 6 for BERT-Large and 5 for
# ResNet-50, come out with 1e9 bytes only.
_PEAK = {"inf1": (64e12, 50e9), "inf2": (190e12, 820e9)}


def suggest_pipeline(parameters: int) -> int:
    """Return the cores of a pipeline that holds all weights in its caches, 4 * round(weights / 2e7); 1 for no pipeline.

    For inf1 only. Source: ``PIPELINE_SOURCE``.
    """
    return pipeline_cores({"pipeline_cores": "auto"}, parameters)


def suggest_buckets(parameters: int) -> int:
    """Return how many compiled shapes a core holds, round(1e9 / weights): for inf1, bf16 and 2 GB a core.

    Source: ``BUCKETS_SOURCE``.
    """
    return round(1e9 / max(1, parameters))


def suggest_batch(target: str, *, parameters: int, weight_bytes: int, operations: float) -> int:
    """Return the smallest batch at which a chip of ``target`` is no longer kept waiting by its memory.

    ceil(0.5 * (chip's operations / chip's bytes a second) / (model's operations / model's bytes)); ``operations`` are
    the floating-point ones of one item, over 0. Source: ``BATCH_SOURCE``.
    """
    peak, bandwidth = _PEAK[target]
    model_bytes = max(1, parameters) * weight_bytes
    return max(1, math.ceil(0.5 * (peak / bandwidth) / (operations / model_bytes)))
