"""Small models to explain: what the tests of explanations share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers import artifact
from handlers.cores import Lease
from handlers.features import Features, Game, Target, Wish
from handlers.handler import Handler
from handlers.image_classifier import ImageClassifier
from handlers.payloads import Payload
from handlers.targets import cpu
from handlers.worker import Bucket, Worker
from tests.forging import make_record


class Clock:
    """A clock that moves by a second with each batch that a model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_game(
    item: np.ndarray,
    baseline: np.ndarray,
    score: Callable[[torch.Tensor], torch.Tensor],
    *,
    seconds: float = math.inf,
    batch: int = 4,
) -> Game:
    """Return the game of a score of vectors whose elements are the features; a batch takes a second."""
    clock = Clock()

    def run(copies: list[tuple[Any, ...]]) -> tuple[torch.Tensor, ...]:
        clock.now += 1
        return (torch.from_numpy(np.stack([copy[0] for copy in copies])),)

    features = Features((np.arange(len(item)),), (baseline,), tuple(range(len(item))))
    # The two scores that a game begins with take the first second.
    return Game(features, (item,), run, lambda out: score(out[0]), batch=batch, deadline=1 + seconds, clock=clock)


def make_wish(method: str, **changes: Any) -> Wish:
    """Return a wish with few samples."""
    return Wish(**{"method": method, "n_samples": 60, "n_steps": 40, "window": 2, "seed": 5, **changes})


def make_worker(
    model: torch.nn.Module, side: int, folder: Path, *, labels: tuple[str, ...] = ("none", "patch"), **settings: Any
) -> Worker:
    """Return a worker for square pictures with a model compiled for cpu in batches of 1 and 4 and warmed up."""
    runs, specs = {}, (artifact.TensorSpec("image", "float32", (1, 3, side, side)),)
    for size in (1, 4):
        torch.jit.save(cpu.compile(model.eval(), [torch.zeros(size, 3, side, side)], {}), folder / f"{size}.pt")
        runs[size] = cpu.load(folder / f"{size}.pt", specs, {})
        for _ in range(3):
            runs[size](torch.zeros(size, 3, side, side))
    record = make_record()
    handler = ImageClassifier({"labels": labels, **settings}, [specs])
    return Worker(record, record.variants[0], handler, [Bucket(specs, runs)], Lease((), 0, []), [])


class PatchFinder(torch.nn.Module):
    """Says "patch" where a square of 8 x 8 pixels of a picture is bright: a convolution, a maximum, a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.box = torch.nn.Conv2d(3, 1, 8, bias=False)
        torch.nn.init.constant_(self.box.weight, 1 / self.box.weight.numel())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brightest = self.box(image).amax(dim=(2, 3))
        return torch.cat([10 * (0.7 - brightest), 10 * (brightest - 0.7)], dim=1)


class Residual(torch.nn.Module):
    """A small smooth network with a residual connection, whose fused graph cannot be differentiated."""

    def __init__(self, labels: int = 2) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.last = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, labels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = torch.relu(self.norm(self.first(image)))
        found = torch.relu(found + torch.relu(self.second(found)))
        return self.last(found.mean((2, 3)))


def plant(seed: int, side: int = 32, size: int = 8) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a dark noisy picture, uint8 (side, side, 3), with a bright patch, and the patch's upper left corner."""
    source = np.random.default_rng(seed)
    pixels = source.integers(0, 120, (side, side, 3), dtype=np.uint8)
    top, left = source.integers(0, side - size + 1, 2).tolist()
    pixels[top : top + size, left : left + size] = source.integers(200, 256, (size, size, 3), dtype=np.uint8)
    return pixels, (top, left)


def is_hit(cell: tuple[int, int], corner: tuple[int, int], cells: int, side: int = 32, size: int = 8) -> bool:
    """Return whether the middle of a grid's cell lies in the patch: the pointing game."""
    middle = [(each + 0.5) * side / cells for each in cell]
    return all(edge <= point <= edge + size for edge, point in zip(corner, middle, strict=True))


def whole_target(worker: Worker, handler: Handler, inputs: tuple[Any, ...]) -> Target:
    """Return what is explained of an item for which a client names no target."""
    return handler.targets(Payload([b""]), [worker.run_copies([inputs])])[0]
