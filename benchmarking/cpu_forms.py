"""Compare the forms that TorchScript can give a model on a CPU, in one run, interleaved; prints ratios to eager.

    python -m benchmarking.cpu_forms cifar10

One thread, as a worker has. Each form is verified against the eager model before it is timed. Forms that change
process-wide settings (the oneDNN graph fuser) are loaded while they are set.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from handlers.artifact import TensorSpec
from handlers.handler import as_tuple
from handlers.targets import cpu
from tracing.compiling import generate_inputs
from tracing.loading import build_model, importing_from, load_recipe, with_any_weights
from tracing.recipe import tensor_specs

Run = Callable[..., Any]  # Any: a tensor, or a tuple with one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="cifar10")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15, help="turns that each form has")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    loaded = with_any_weights(load_recipe(arguments.model))
    with importing_from(loaded.folder):
        model = build_model(loaded)
    for batch in arguments.batches:
        (inputs,) = generate_inputs(loaded.recipe.inputs, batch, seed=0)
        specs = tensor_specs(loaded.recipe.inputs, batch)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            forms = make_forms(model, inputs, specs, Path(folder))
            report(batch, forms, model, inputs, arguments.rounds)


def make_forms(
    model: torch.nn.Module, inputs: torch.Tensor, specs: tuple[TensorSpec, ...], folder: Path
) -> dict[str, Run]:
    """Return every form by name, warmed up."""
    forms: dict[str, Run] = {"eager": model}
    fused = {}
    for precision in ("fp32", "bf16"):
        torch.jit.enable_onednn_fusion(False)
        frozen = cpu.compile(model, [inputs], {"precision": precision})
        path = folder / f"{precision}-{len(inputs)}.pt"
        torch.jit.save(frozen, str(path))
        forms[f"{precision} frozen"] = _load(path)
        forms[f"{precision} frozen, optimize_for_inference"] = torch.jit.optimize_for_inference(_load(path))
        fused[f"{precision} frozen, oneDNN graph fuser"] = path
    for run in forms.values():
        _warm_up(run, inputs)
    for name, path in fused.items():
        forms[name] = cpu.load(path, specs, {})
        _warm_up(forms[name], inputs)
    return forms


def report(batch: int, forms: dict[str, Run], model: torch.nn.Module, inputs: torch.Tensor, rounds: int) -> None:
    """Time all forms in turn, `rounds` times, and print a table for one batch size."""
    expected = as_tuple(model(inputs))[0]
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, run in forms.items():
            began = time.perf_counter()
            for _ in range(5):
                run(inputs)
            times[name].append((time.perf_counter() - began) / 5)
    eager = statistics.median(times["eager"])
    print(f"\nbatch {batch}: microseconds per item (median of {rounds}), eager time over it, largest error")
    for name, seconds in sorted(times.items(), key=lambda each: statistics.median(each[1])):
        error = float((as_tuple(forms[name](inputs))[0] - expected).abs().max())
        median = statistics.median(seconds)
        print(f"  {name:<36} {median / batch * 1e6:8.0f} {eager / median:7.2f}x {error:10.1e}")


def _load(path: Path) -> Any:
    return torch.jit.load(str(path))  # type: ignore[no-untyped-call]


def _warm_up(run: Run, inputs: torch.Tensor) -> None:
    for _ in range(4):
        run(inputs)


if __name__ == "__main__":
    main()
