"""Train the CIFAR-10 classifier and write its weights.

    python tracing/recipes/cifar10/train.py --data ../shared/data/cifar10_jpeg.npz

Stopped at any moment, the same command goes on from the last finished epoch. The test images are looked at
after the last epoch only; the weights are those of the last epoch.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from augmentation import augment, mix, normalise  # noqa: E402
from dataset import Split, load_split  # noqa: E402  the recipe's folder is not a package
from network import CompactResNet, MirrorAveraged  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run; saved with the checkpoint and compared on resume."""

    epochs: int  # passes over the training images until the learning rate is 0 for the first time
    again: int  # passes after that, from a lower rate down to 0 again (warm restart, Loshchilov and Hutter 2017)
    seed: int  # of weights, order and augmentation
    batch_size: int = 128  # images per step
    peak_rate: float = 0.15  # learning rate at the end of the warm-up
    warmup: float = 0.15  # share of the first epochs' steps in which the rate rises from 0
    again_rate: float = 0.06  # learning rate at the warm restart
    weight_decay: float = 5e-4  # on convolution and linear weights only
    label_smoothing: float = 0.1  # share of the target spread over all classes
    pad: int = 4  # pixels of reflection padding before the random crop
    cutout: int = 8  # side of the square hidden in each picture, pixels
    mixed: float = 0.5  # share of the batches in which a rectangle of each picture comes from another (CutMix)
    plain: float = 0.3  # share of the epochs before the rate is 0 in which none does
    average: float = 0.998  # decay per step of the exponential moving average of the weights

    @property
    def total(self) -> int:
        """All passes over the training images."""
        return self.epochs + self.again

    def progress(self, epoch: float) -> tuple[bool, float]:
        """Return whether an epoch is after the warm restart, and how far it is through its part, 0 to 1."""
        if epoch < self.epochs:
            return False, epoch / self.epochs
        return True, (epoch - self.epochs) / self.again


def main() -> None:
    arguments = _parse_arguments()
    settings = Settings(epochs=arguments.epochs, again=arguments.again, seed=arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    training = load_split(arguments.data, "train")
    if arguments.limit:
        training = Split(training.images[: arguments.limit], training.labels[: arguments.limit])
    run = _Run(
        settings,
        training,
        device,
        bf16=_has_fast_bf16(device),
        checkpoint=arguments.work / "checkpoint.pt",
        keep=arguments.keep,
    )
    run.resume()
    run.train()
    _write_weights(run.averaged, arguments.output)
    test = load_split(arguments.data, "test")
    network = CompactResNet().to(device).eval()
    network.load_state_dict(_read_weights(arguments.output))
    report = {
        "test_images": len(test.labels),
        "test_accuracy": measure_accuracy(MirrorAveraged(network), test, device),
        "test_accuracy_without_mirror": measure_accuracy(network, test, device),
        "seconds": round(run.seconds),
        "device": str(device),
        "precision": "bf16 autocast" if run.bf16 else "fp32",
        "threads": torch.get_num_threads(),
        "settings": vars(settings),
    }
    (arguments.work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), f"\nwrote {arguments.output} after {time.monotonic() - started:.0f} s")


def measure_accuracy(network: nn.Module, split: Split, device: torch.device) -> float:
    """Return the share of pictures, 0 to 1, whose largest logit is their class."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(split.labels), 500):
            batch = normalise(torch.from_numpy(split.images[start : start + 500]).to(device))
            right += int((network(batch).argmax(1).cpu() == torch.from_numpy(split.labels[start : start + 500])).sum())
    return right / len(split.labels)


class _Run:
    """One training run: network, average, optimizer, and the checkpoint that lets it resume."""

    def __init__(
        self, settings: Settings, split: Split, device: torch.device, *, bf16: bool, checkpoint: Path, keep: bool
    ) -> None:
        self.settings, self.device, self.bf16, self.checkpoint = settings, device, bf16, checkpoint
        self.keep = keep
        torch.manual_seed(settings.seed)
        self.network = CompactResNet().to(device, memory_format=torch.channels_last)
        self.averaged = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.SGD(_parameter_groups(self.network, settings), lr=0.0, momentum=0.9, nesterov=True)
        pad = [settings.pad] * 4
        images = torch.from_numpy(split.images).permute(0, 3, 1, 2).float()
        self.images = F.pad(images, pad, mode="reflect").byte().to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.epoch, self.seconds = 0, 0.0
        self.steps = len(split.labels) // settings.batch_size

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if saved["settings"] != vars(self.settings):
            raise SystemExit(
                f"{self.checkpoint} belongs to another run: it has {saved['settings']}, this run "
                f"{vars(self.settings)}; use those settings, or remove the file to start again"
            )
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.averaged, self.epoch, self.seconds = saved["averaged"], saved["epoch"], saved["seconds"]
        print(f"going on after epoch {self.epoch} of {self.settings.total}")

    def train(self) -> None:
        while self.epoch < self.settings.total:
            begun = time.monotonic()
            loss = self._train_epoch()
            self.epoch += 1
            self.seconds += time.monotonic() - begun
            self._save()
            print(f"\repoch {self.epoch}/{self.settings.total}  loss {loss:.4f}  {self.seconds:.0f} s", flush=True)

    def _train_epoch(self) -> float:
        # Seeded per epoch, so that a resumed run sees the pictures that an uninterrupted one would have seen.
        generator = torch.Generator().manual_seed(self.settings.seed * 1000 + self.epoch)
        self.network.train()
        total, begun = 0.0, time.monotonic()
        for step, (images, labels) in enumerate(self._batches(generator)):
            for group in self.optimizer.param_groups:
                group["lr"] = _learning_rate(self.epoch + step / self.steps, self.settings)
            others, kept = labels, 1.0
            if self.settings.progress(self.epoch)[1] < 1 - self.settings.plain:
                images, others, kept = mix(images, labels, share=self.settings.mixed, generator=generator)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self.network(images).float()
            loss = kept * self._loss(logits, labels)
            if kept < 1:
                loss = loss + (1 - kept) * self._loss(logits, others)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self._update_average(self.epoch * self.steps + step)
            total += float(loss.detach())
            _print_progress(self, step, total / (step + 1), begun)
        return total / self.steps

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self.settings.batch_size
        order = torch.randperm(len(self.labels), generator=generator)
        for step in range(self.steps):
            rows = order[step * size : (step + 1) * size]
            yield self._augment(self.images[rows.to(self.device)], generator), self.labels[rows]

    def _augment(self, padded: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return augment(padded, pad=self.settings.pad, cutout=self.settings.cutout, generator=generator)

    def _update_average(self, step: int) -> None:
        # The first steps weigh more, or the random start would still be in the average of a short run.
        decay = min(self.settings.average, (1 + step) / (10 + step))
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value, 1 - decay)
            else:
                self.averaged[key].copy_(value)

    def _save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "settings": vars(self.settings),
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "averaged": self.averaged,
                "epoch": self.epoch,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(self.checkpoint)
        if self.keep:
            shutil.copy(self.checkpoint, self.checkpoint.with_name(f"checkpoint-{self.epoch}.pt"))


def _parameter_groups(network: nn.Module, settings: Settings) -> list[dict[str, object]]:
    """Weight decay on weights, none on normalisation scales and shifts, which it would only push towards zero."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _learning_rate(epoch: float, settings: Settings) -> float:
    """Linear warm-up to the peak, half a cosine down to zero; half a cosine from the lower rate after the restart."""
    restarted, progress = settings.progress(epoch)
    if restarted:
        return settings.again_rate * 0.5 * (1 + math.cos(math.pi * progress))
    if progress < settings.warmup:
        return settings.peak_rate * progress / settings.warmup
    return settings.peak_rate * 0.5 * (1 + math.cos(math.pi * (progress - settings.warmup) / (1 - settings.warmup)))


def _has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is in hardware: any recent GPU, or a CPU with AMX tiles."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text()


def _write_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write the weights as float16, which halves the file and moves no logit by more than about 0.01."""
    kept = {k: v.half().cpu().contiguous() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(kept, path, metadata={"format": "pt"})


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    state = {key: value.float() for key, value in load_file(path).items()}
    tracked = {key: value for key, value in CompactResNet().state_dict().items() if key.endswith("num_batches_tracked")}
    return {**tracked, **state}


def _print_progress(run: _Run, step: int, loss: float, begun: float) -> None:
    if step % 20 and step + 1 < run.steps:
        return
    done = (run.epoch * run.steps + step + 1) / (run.settings.total * run.steps)
    per_step = (time.monotonic() - begun) / (step + 1)
    left = per_step * ((run.settings.total - run.epoch) * run.steps - step - 1)
    bar = "#" * int(30 * done)
    print(f"\r[{bar:<30}] {done:6.1%}  loss {loss:.3f}  {left / 60:.0f} min left ", end="", file=sys.stderr, flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar-10-python.tar.gz, its folder, or an .npz")
    parser.add_argument("--output", type=Path, default=FOLDER / "weights.safetensors")
    parser.add_argument("--work", type=Path, default=Path("build/cifar10-training"), help="checkpoint and report")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--again", type=int, default=22, help="epochs after the warm restart")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the checkpoint of every epoch")
    parser.add_argument("--limit", type=int, help="use only the first N training images (to try the script)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
