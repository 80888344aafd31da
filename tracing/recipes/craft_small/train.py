"""Train the small text detector on rendered pictures and write its weights.

    python tracing/recipes/craft_small/train.py --fonts /usr/share/fonts/truetype/dejavu --minutes 45

Stopped at any moment, the same command goes on from the last checkpoint, at most a minute back. Every step draws new
pictures from the seed and the step's number. The learning rate follows the time used, so that a slower machine ends
with fewer steps rather than late; the weights kept are those with the smallest validation loss.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[2])]

from heat_maps import draw_maps  # noqa: E402  the recipe's folder is not a package
from network import WIDTHS, save_network  # noqa: E402
from render import BUILT_IN, Style, list_fonts, render_scene  # noqa: E402

from tracing.networks.craft import Craft  # noqa: E402

# Per-channel mean and deviation of the published CRAFT's inputs, those of ImageNet (also in recipe.py).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# (width, height) of a batch's pictures: squares for variety, long ones for long words.
_SIZES = ((192, 192), (256, 192), (192, 256), (320, 160), (256, 256), (384, 192), (320, 320))
_BATCH_PIXELS = 5 * 256 * 192  # about as many in each batch, whatever its pictures' size
_VALIDATION_SEED = 10**9
_MINING_SHARE = 0.5  # of a run that trains on the worst of the background, before all of it


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run; saved with the checkpoint and compared on resume."""

    seed: int
    minutes: float  # of training, validation included
    rate: float  # largest learning rate of AdamW
    warm_up: int  # steps until it is reached
    fonts: tuple[str, ...]  # names of the fonts' files


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf


def make_batch(
    size: tuple[int, int], count: int, style: Style, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures, float32 (count, 3, height, width), and their maps, float32 (count, 2, height/2, width/2).

    A quarter of the pictures is smaller and padded by zeros at the right and the bottom, as buckets pad them.
    """
    width, height = size
    pictures = np.zeros((count, height, width, 3), np.float32)
    maps = np.zeros((count, 2, height // 2, width // 2), np.float32)
    for index in range(count):
        part = (width, height)
        if generator.random() < 0.25:
            part = (
                width - 32 * int(generator.integers(width // 64)),
                height - 32 * int(generator.integers(height // 64)),
            )
        scene = render_scene(part, style, generator)
        pictures[index, : part[1], : part[0]] = (np.asarray(scene.image, np.float32) / 255 - MEAN) / STD
        maps[index, :, : part[1] // 2, : part[0] // 2] = draw_maps(scene.words, part)
    ordered = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    return ordered.contiguous(memory_format=torch.channels_last), torch.from_numpy(maps)


def map_loss(found: torch.Tensor, wanted: torch.Tensor, *, mining: bool) -> torch.Tensor:
    """Return the squared error of both maps, summed and divided by the number of pixels with text.

    Nearly all of a picture is background, most of it easy. With ``mining``, text counts in full and of the background
    a third of the three times as many worst pixels (hard negative mining, Shrivastava et al. 2016): a network finds
    text sooner so, but draws it too wide, because it is punished less for what it invents.
    """
    errors = (found - wanted).square()
    total = errors.new_zeros(())
    for channel in range(2):
        is_text = wanted[:, channel] > 0.1
        count = max(int(is_text.sum()), 500)
        if mining:
            other = errors[:, channel][~is_text]
            worst = other.topk(min(3 * count, other.numel())).values
            total = total + (errors[:, channel][is_text].sum() + worst.sum() / 3) / count
        else:
            total = total + errors[:, channel].sum() / count
    return total


def train(settings: Settings, style: Style, validation: Style, folder: Path) -> Craft:
    """Return the trained network; writes ``best.safetensors``, checkpoints and a log into ``folder``."""
    torch.manual_seed(settings.seed)
    network = Craft(WIDTHS).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=1e-3)
    progress = _resume(folder, settings, network, optimiser)
    held_out = [
        make_batch((256, 256), 8, validation, np.random.default_rng([_VALIDATION_SEED, index])) for index in range(6)
    ]
    saved = progress.seconds
    started = time.monotonic() - progress.seconds
    while progress.seconds < settings.minutes * 60:
        loss = _step(network, optimiser, settings, style, progress)
        progress.seconds = time.monotonic() - started
        _show(progress, loss, settings)
        if progress.seconds - saved > 60 or progress.seconds >= settings.minutes * 60:
            _validate(network, held_out, progress, loss, folder)
            progress.seconds = saved = time.monotonic() - started
            _save(folder, settings, network, optimiser, progress)
    print(file=sys.stderr)
    return network


def _step(
    network: Craft, optimiser: torch.optim.Optimizer, settings: Settings, style: Style, progress: Progress
) -> float:
    generator = np.random.default_rng([settings.seed, progress.step])
    size = _SIZES[int(generator.integers(len(_SIZES)))]
    pictures, maps = make_batch(size, max(1, _BATCH_PIXELS // (size[0] * size[1])), style, generator)
    share = min(progress.seconds / (settings.minutes * 60), 1.0)
    warm = min((progress.step + 1) / settings.warm_up, 1.0)
    for group in optimiser.param_groups:
        group["lr"] = settings.rate * warm * (0.5 * (1 + math.cos(math.pi * share)) + 0.002)
    network.train()
    optimiser.zero_grad(set_to_none=True)
    # Twice as fast on a processor with bf16 matrix units; weights and the loss stay float32.
    with torch.autocast("cpu", torch.bfloat16):
        found = network(pictures)
    loss = map_loss(found.float(), maps, mining=share < _MINING_SHARE)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    progress.step += 1
    return float(loss.detach())


def _validate(
    network: Craft, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], progress: Progress, loss: float, folder: Path
) -> None:
    network.eval()
    with torch.inference_mode():
        losses = [float(map_loss(network(pictures), maps, mining=False)) for pictures, maps in batches]
    mean = sum(losses) / len(losses)
    if mean < progress.best_loss:
        progress.best_loss = mean
        save_network(network, folder / "best.safetensors")
    line = {"step": progress.step, "seconds": round(progress.seconds), "loss": loss, "validation_loss": mean}
    with (folder / "log.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def _show(progress: Progress, loss: float, settings: Settings) -> None:
    left = max(settings.minutes * 60 - progress.seconds, 0)
    line = f"step {progress.step}  loss {loss:.4f}  best validation {progress.best_loss:.4f}  {left / 60:.1f} min left"
    print(f"\r{line} ", end="", file=sys.stderr, flush=True)


def _save(
    folder: Path, settings: Settings, network: Craft, optimiser: torch.optim.Optimizer, progress: Progress
) -> None:
    # Written beside and renamed, so that a stop in between leaves the one before.
    part = folder / "checkpoint.part"
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**state, "settings": asdict(settings), "progress": asdict(progress)}, part)
    part.replace(folder / "checkpoint.pt")


def _resume(folder: Path, settings: Settings, network: Craft, optimiser: torch.optim.Optimizer) -> Progress:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return Progress()
    found = torch.load(path, weights_only=True)
    if found["settings"] != asdict(settings):
        raise SystemExit(f"{path} is of a run with other settings; use them again, or another --work folder")
    network.load_state_dict(found["network"])
    optimiser.load_state_dict(found["optimiser"])
    return Progress(**found["progress"])


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, nargs="*", default=[], help="folders of .ttf files; Pillow's own without")
    parser.add_argument("--validation-fonts", type=Path, help="a folder of others; Pillow's own without")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/craft_small"), help="folder for checkpoints and log")
    parser.add_argument("--out", type=Path, default=FOLDER / "weights.safetensors")
    return parser.parse_args()


def main() -> None:
    arguments = _parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    fonts = [font for folder in arguments.fonts for font in list_fonts(folder)] or [BUILT_IN]
    others = list_fonts(arguments.validation_fonts) if arguments.validation_fonts else [BUILT_IN]
    settings = Settings(
        seed=arguments.seed,
        minutes=arguments.minutes,
        rate=arguments.rate,
        warm_up=100,
        fonts=tuple(Path(font).name for font in fonts),
    )
    train(settings, Style(fonts=fonts), Style(fonts=others), arguments.work)
    arguments.out.write_bytes((arguments.work / "best.safetensors").read_bytes())
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
