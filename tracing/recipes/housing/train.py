"""Train the California housing regressor and write its weights.

    python tracing/recipes/housing/train.py ../shared/data/california_housing.csv

Stopped at any moment, the same command goes on from the last finished epoch. Every network of the ensemble is
validated on its own eighth of the rows and trained on the others; the test rows are looked at once, after the last
epoch.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import dataset  # before handlers: it puts the project's root on the path
import numpy as np
import torch
from columns import SETTINGS, TARGET
from network import Ensemble
from safetensors.torch import save_file
from tqdm import tqdm

from handlers.tabular_regressor import Predicted, TabularRegressor

FOLDER = Path(__file__).resolve().parent
PREDICTED = Predicted(**TARGET)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the result of a run; saved with the checkpoint and compared on resume."""

    epochs: int  # passes of every network over its rows
    seed: int  # of weights, order and left out columns
    networks: int = dataset.FOLDS
    hidden: int = 128  # width of both hidden layers
    batch_size: int = 256  # rows of each network per step
    rate: float = 4e-3  # AdamW's learning rate at the end of the warm-up
    warmup: float = 0.05  # share of the steps in which the rate rises from 0; then half a cosine down to 0
    weight_decay: float = 0.01
    dropout: float = 0.1  # share of the hidden values
    missing: float = 0.05  # share of the optional values that are left out, so that the model learns to do without
    average: float = 0.998  # decay per step of the exponential moving average of the weights


def main() -> None:
    arguments = _parse_arguments()
    torch.set_num_threads(1)  # matrices this small gain nothing from a second core
    settings = Settings(epochs=arguments.epochs, seed=arguments.seed)
    learned, test = dataset.split_table(dataset.load_table(arguments.data))
    run = _Run(settings, learned, arguments.work / "checkpoint.pt")
    run.resume()
    run.train(arguments.stop_after)
    if run.epoch < settings.epochs:
        return
    # Half precision halves the file and moves no answer by more than about a thousandth.
    save_file({name: value.half().contiguous() for name, value in run.average.items()}, arguments.output)
    network = Ensemble(settings.networks, run.inputs.shape[-1], settings.hidden).eval()
    network.load_state_dict({name: value.half().float() for name, value in run.average.items()})
    report = {
        "validation_rmse": run.validate(),
        "test": measure(network, test),
        "test_rows": len(test.rows),
        "seconds": round(run.seconds),
        "settings": vars(settings),
    }
    (arguments.work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), f"\nwrote {arguments.output}")


def measure(network: torch.nn.Module, table: dataset.Table) -> dict[str, float]:
    """Return the root mean square and the mean absolute error in dollars."""
    with torch.inference_mode():
        (predicted,) = _handler().activate((network(torch.from_numpy(dataset.encode_table(table))),))
    errors = predicted.numpy() - table.prices
    return {"rmse": round(float(np.sqrt(np.mean(errors**2)))), "mae": round(float(np.mean(np.abs(errors))))}


class _Run:
    """One training run: the networks, their averages, the optimizer, and the checkpoint that lets it resume."""

    def __init__(self, settings: Settings, table: dataset.Table, checkpoint: Path) -> None:
        self.settings, self.checkpoint = settings, checkpoint
        self.inputs = torch.from_numpy(dataset.encode_table(table))
        self.prices = torch.from_numpy(table.prices)
        folds = dataset.fold_of_rows(len(table.rows))
        self.training = [torch.from_numpy(np.flatnonzero(folds != each)) for each in range(settings.networks)]
        self.validation = [torch.from_numpy(np.flatnonzero(folds == each)) for each in range(settings.networks)]
        self.steps = max(1, min(map(len, self.training)) // settings.batch_size)
        torch.manual_seed(settings.seed)
        self.network = Ensemble(settings.networks, self.inputs.shape[1], settings.hidden, settings.dropout)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=settings.weight_decay)
        self.blank = _Blank()
        self.epoch, self.seconds = 0, 0.0

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; stop where it is another run's."""
        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, weights_only=True)
        if saved["settings"] != vars(self.settings):
            raise SystemExit(
                f"{self.checkpoint} belongs to another run: it has {saved['settings']}, this run "
                f"{vars(self.settings)}; use those settings, or remove the file to start again"
            )
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average, self.epoch, self.seconds = saved["average"], saved["epoch"], saved["seconds"]
        print(f"going on after epoch {self.epoch} of {self.settings.epochs}")

    def train(self, stop_after: int | None = None) -> None:
        """Train to the last epoch, or at most so many more; the bar shows the time that is left."""
        last = min(self.settings.epochs, self.epoch + (stop_after or self.settings.epochs))
        total = self.settings.epochs * self.steps
        with tqdm(total=total, initial=self.epoch * self.steps, unit="step", smoothing=0.1) as bar:
            while self.epoch < last:
                begun = time.monotonic()
                self._train_epoch(bar)
                self.epoch += 1
                self.seconds += time.monotonic() - begun
                self._save()
                bar.set_description(f"validation RMSE {self.validate():,} dollars")

    def validate(self) -> int:
        """Return the root mean square error in dollars of each averaged network on the rows it has not seen."""
        network = Ensemble(self.settings.networks, self.inputs.shape[1], self.settings.hidden).eval()
        network.load_state_dict(self.average)
        squares = []
        with torch.inference_mode():
            for number, rows in enumerate(self.validation):
                predicted = PREDICTED.compute(network.each(self.inputs[rows].unsqueeze(0))[number, :, 0])
                squares.append((predicted - self.prices[rows]) ** 2)
        return round(float(torch.cat(squares).mean().sqrt()))

    def _train_epoch(self, bar: "tqdm[None]") -> None:
        # Seeded per epoch, so that a resumed run sees what an uninterrupted one would have seen.
        torch.manual_seed(self.settings.seed * 1000 + self.epoch)
        self.network.train()
        size = self.settings.batch_size
        orders = [rows[torch.randperm(len(rows))] for rows in self.training]
        for step in range(self.steps):
            done = self.epoch * self.steps + step
            for group in self.optimizer.param_groups:
                group["lr"] = _learning_rate(done / (self.settings.epochs * self.steps), self.settings)
            picked = torch.stack([order[step * size : (step + 1) * size] for order in orders])
            inputs = self.blank.leave_out(self.inputs[picked], self.settings.missing)
            loss = _loss(self.network.each(inputs), self.prices[picked].float())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self._update_average(done)
            bar.update()

    def _update_average(self, step: int) -> None:
        # The first steps weigh more, or the random start would still be in the average of a short run.
        decay = min(self.settings.average, (1 + step) / (10 + step))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def _save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        more = {"average": self.average, "epoch": self.epoch, "seconds": self.seconds}
        torch.save({"settings": vars(self.settings), **state, **more}, partial)
        partial.replace(self.checkpoint)


class _Blank:
    """Leaves optional columns out of rows, as the handler encodes a missing value."""

    def __init__(self) -> None:
        handler = _handler()
        names = [column.name for column in handler.columns]
        self.positions = torch.tensor([names.index(name) for name in handler.columns_by_position()])
        self.optional = torch.tensor([float(column.optional) for column in handler.columns])
        self.baseline = torch.from_numpy(handler.baseline())

    def leave_out(self, inputs: torch.Tensor, share: float) -> torch.Tensor:
        """Return inputs (networks, rows, inputs) with a random share of the optional values missing."""
        left_out = torch.rand(*inputs.shape[:2], len(self.optional)) < share * self.optional
        return torch.where(left_out[..., self.positions], self.baseline, inputs)


def _handler() -> TabularRegressor:
    return TabularRegressor(SETTINGS, [()])


def _loss(outputs: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
    """Return the mean square error in dollars, over the prices' variance: what is reported is what is learned."""
    # Unlike Predicted.compute without the census' limits, at which nothing more would be learned.
    logarithms = (TARGET["mean"] + TARGET["std"] * outputs.squeeze(-1)).clamp(8, 13.2)
    return (((logarithms.exp() - prices) / 115_000) ** 2).mean()


def _learning_rate(progress: float, settings: Settings) -> float:
    """Linear warm-up, times half a cosine down to zero."""
    return settings.rate * min(1.0, progress / settings.warmup) * 0.5 * (1 + math.cos(math.pi * progress))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the CSV file, for example ../shared/data/california_housing.csv")
    parser.add_argument("--output", type=Path, default=FOLDER / "weights.safetensors")
    parser.add_argument("--work", type=Path, default=Path("build/housing-training"), help="checkpoint and report")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N epochs; the same command goes on")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
