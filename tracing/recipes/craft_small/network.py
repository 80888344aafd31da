"""The small detector's size: CRAFT with a quarter of the published channels, and its weights' file."""

from pathlib import Path

import torch

from tracing.networks.checkpoints import load_weights, read_weights
from tracing.networks.craft import Craft, Widths

WIDTHS = Widths(
    stages=(16, 32, 64, 128, 128),
    dilated=256,
    decoder=((128, 64), (64, 32), (32, 32), (32, 16)),
    head=(16, 8),
)


def load_network(path: Path) -> Craft:
    """Return the small CRAFT with the weights of a .safetensors file, which may hold them as bf16."""
    network = Craft(WIDTHS)
    load_weights(network, read_weights(path))
    return network.eval()


def save_network(network: Craft, path: Path) -> None:
    """Write the weights as bf16, and the running statistics, which it would spoil, as they are; without counters."""
    from safetensors.torch import save_file

    kept = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(
        {
            name: (value if "running_" in name else value.to(torch.bfloat16)).contiguous()
            for name, value in kept.items()
        },
        path,
    )
