"""Train the simple network on CIFAR-10 and write its weights: minutes on a processor, not committed.

python tracing/recipes/simple_cnn/train.py --data ../shared/data/cifar10_jpeg.npz --output simple_cnn.safetensors
make serve MODEL=simple_cnn WEIGHTS=simple_cnn.safetensors
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "cifar10")]

from dataset import Split, load_split  # noqa: E402  the recipes' folders are not packages
from network import SimpleCnn  # noqa: E402

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images, as in recipe.py
BATCH = 128  # pictures per step
PEAK_RATE = 1e-3  # of Adam's, falling to 0 along a cosine
WEIGHT_DECAY = 0.05
SHIFT = 2  # pixels that a picture is moved by at most, each way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10: an archive, a folder or an .npz")
    parser.add_argument("--output", type=Path, required=True, help="the weights, .safetensors")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = train(load_split(arguments.data, "train"), arguments.epochs, device)
    test = load_split(arguments.data, "test")
    print(f"{measure(network, test):.2%} of {len(test.labels):,} test pictures are right")
    save_file({name: value.half().cpu().contiguous() for name, value in network.state_dict().items()}, arguments.output)
    print(f"wrote {arguments.output}, {arguments.output.stat().st_size / 1e6:.2f} MB")


def train(split: Split, epochs: int, device: torch.device) -> SimpleCnn:
    """Return the network after ``epochs`` passes over the pictures, in eval mode on the device."""
    network = SimpleCnn().to(device)
    images, labels = normalise(split.images).to(device), torch.from_numpy(split.labels).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), device=device).split(BATCH):
            loss = F.cross_entropy(network(augment(images[chosen])), labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(images):.3f}", flush=True)
    return network.eval()


def normalise(images: np.ndarray) -> torch.Tensor:
    """Return uint8 pictures (N, 32, 32, 3) as the network takes them: float32 (N, 3, 32, 32)."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0
    return (pictures - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def augment(batch: torch.Tensor) -> torch.Tensor:
    """Return the pictures moved by one random offset of up to ``SHIFT`` pixels, and half of them mirrored."""
    down, right = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    size = batch.shape[-1]
    moved = F.pad(batch, (SHIFT,) * 4, mode="reflect")[:, :, down : down + size, right : right + size]
    mirrored = torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5
    return torch.where(mirrored, moved.flip(3), moved)


def measure(network: SimpleCnn, split: Split) -> float:
    """Return the share of the pictures whose class the network finds."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(part.to(device)).argmax(1).cpu() for part in normalise(split.images).split(1000)]
    return float((torch.cat(parts).numpy() == split.labels).mean())


if __name__ == "__main__":
    main()
