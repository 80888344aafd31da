"""Figures that follow from a recipe and its model without compiling: options, weights, memory, operations."""

from typing import Any

import torch

from handlers import targets
from tracing.compiling import generate_inputs
from tracing.recipe import Recipe, sorted_buckets


def resolve_options(target: str, recipe: Recipe, model: torch.nn.Module) -> dict[str, Any]:
    """Return the recipe's options for a chip with every number that depends on the model worked out."""
    options = dict(recipe.targets.get(target, {}))
    backend = targets.get_target(target)
    parameters = count_parameters(model)
    worker_cores = backend.cores_per_worker(options, parameters, recipe.cores_per_worker)
    if "pipeline_cores" in options:
        options["pipeline_cores"] = worker_cores if options["pipeline_cores"] != 1 else 1
    options["data_parallel"] = worker_cores if options.get("pipeline_cores", 1) == 1 else 1
    return options


def estimate_copy_bytes(target: str, parameters: int, options: dict[str, Any]) -> int:
    """Return the device memory that the weights of one compiled module take on each of its cores.

    inf1 keeps weights in bf16 unless nothing is cast, inf2 in fp32 unless all is; a pipeline spreads them.
    """
    narrow = options.get("cast", "all" if target == "inf1" else "matmult")
    size = 2 if narrow == "all" or (target == "inf1" and narrow == "matmult") else 4
    return parameters * size // int(options.get("pipeline_cores", 1))


def count_operations(recipe: Recipe, model: torch.nn.Module) -> float:
    """Return the floating-point operations of one item in the largest bucket, as torch's flop counter has them."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = generate_inputs(recipe.inputs, 1, seed=0, bucket=sorted_buckets(recipe)[-1])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return float(counter.get_total_flops())


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of trained values."""
    return sum(value.numel() for value in model.parameters())
