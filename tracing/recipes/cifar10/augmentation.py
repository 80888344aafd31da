"""What training does to pictures: normalisation, crops, mirrors, hidden squares and mixtures."""

import math

import torch

# Per-channel mean and standard deviation of the training images, scaled to 0..1 (also in recipe.py).
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def augment(padded: torch.Tensor, *, pad: int, cutout: int, generator: torch.Generator) -> torch.Tensor:
    """Another crop, mirror and hidden square for each picture: uint8 (N, 3, 40, 40) to float32 (N, 3, 32, 32)."""
    count, side = len(padded), padded.shape[-1] - 2 * pad
    draw = torch.rand((5, count), generator=generator).to(padded.device)
    span = torch.arange(side, device=padded.device)
    rows = (draw[0] * (2 * pad + 1)).long()[:, None] + span
    columns = (draw[1] * (2 * pad + 1)).long()[:, None] + torch.where(draw[2][:, None] < 0.5, span, side - 1 - span)
    picked = torch.arange(count, device=padded.device)[:, None, None]
    cropped = normalise(padded.permute(0, 2, 3, 1)[picked, rows[:, :, None], columns[:, None, :]])
    half = cutout // 2
    hidden_rows = ((span - (draw[3] * side).long()[:, None]) + half).div(cutout, rounding_mode="floor") == 0
    hidden_columns = ((span - (draw[4] * side).long()[:, None]) + half).div(cutout, rounding_mode="floor") == 0
    return cropped.masked_fill((hidden_rows[:, :, None] & hidden_columns[:, None, :])[:, None], 0.0)


def mix(
    images: torch.Tensor, labels: torch.Tensor, *, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Paste one rectangle of each picture's neighbour over it (CutMix, Yun et al. 2019), in a share of the batches.

    Returns the pictures, the classes of the pasted parts, and the share of each picture that is still its own.
    """
    draw = torch.rand(4, generator=generator).tolist()
    if draw[0] >= share:
        return images, labels, 1.0
    side = images.shape[-1]
    # The kept share is uniform, which is CutMix's Beta(1, 1).
    length = round(side * math.sqrt(1 - draw[1]))
    top, left = (int(value * (side - length + 1)) for value in draw[2:])
    mixed = images.clone()
    area = (..., slice(top, top + length), slice(left, left + length))
    mixed[area] = images.roll(1, dims=0)[area]
    return mixed, labels.roll(1), 1 - length * length / (side * side)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 32, 32, 3) to float32 (N, 3, 32, 32), mean 0 and deviation 1 per channel over the training images."""
    mean = torch.tensor(MEAN, device=images.device)
    std = torch.tensor(STD, device=images.device)
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
