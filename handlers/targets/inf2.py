"""The target ``inf2``: AWS Inferentia 2 and Trainium 1, through torch-neuronx (or its emulator, alike outside)."""

import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from handlers import neuron
from handlers.artifact import TensorSpec
from handlers.neuron import Outputs, core_kind

PACKAGE = "torch_neuronx"
# matmult is what AWS's own benchmarks use; the compiler's default casts nothing.
_AUTO_CAST = {"all": ["--auto-cast", "all"], "matmult": ["--auto-cast", "matmult"], "none": ["--auto-cast", "none"]}
_TARGET = ["--target", "inf2"]  # wanted where no device tells it; trn1 has the same cores and runs these modules

__all__ = [
    "check_options",
    "compile",
    "compiled_batch",
    "compiler_args",
    "core_kind",
    "cores_per_worker",
    "host_cores",
    "is_emulated",
]
__all__ += ["load", "missing", "open_module", "places", "prepare", "versions"]


def missing(emulated: bool) -> Optional[str]:
    """Return why this target cannot be used here, or None."""
    return neuron.find_missing("inf2", PACKAGE, emulated=emulated)


def host_cores() -> List[int]:
    """Return the numbers of this host's NeuronCores."""
    return neuron.find_cores("inf2")


def places() -> int:
    """Return how many workers may share a core: one, the runtime gives a core to one process."""
    return 1


def prepare(leased: Sequence[int]) -> None:
    """Claim the leased cores for this process and import torch_neuronx, before anything is loaded."""
    neuron.claim_cores(leased, PACKAGE)


def versions() -> Dict[str, str]:
    """Return the versions that decide what ``compile`` gives."""
    framework = neuron.import_framework(PACKAGE)
    return {"torch": torch.__version__, "torch-neuronx": str(getattr(framework, "__version__", "unknown"))}


def is_emulated() -> bool:
    """Return whether ``compile`` gives what runs on the emulator only."""
    return neuron.is_emulated(PACKAGE)


def check_options(options: Dict[str, Any]) -> List[str]:
    """Return the faults in a recipe's options for this target."""
    return neuron.check_options(options, pipeline=False)


def cores_per_worker(options: Dict[str, Any], parameters: int, default: int) -> int:
    """Return how many cores a worker leases."""
    return neuron.count_worker_cores(options, parameters, default)


def compiled_batch(batch: int, sizes: Sequence[int], options: Dict[str, Any]) -> int:
    """Return the batch size to compile where a worker is to run ``batch`` items; see ``neuron.compiled_batch``."""
    return neuron.compiled_batch(batch, sizes, options)


def compiler_args(options: Dict[str, Any], parameters: int) -> List[str]:
    """Return the words that neuronx-cc is given."""
    cast = _AUTO_CAST[options.get("cast", "matmult")]
    kind = [] if cast[1] == "none" else ["--auto-cast-type", "bf16"]
    return [*_TARGET, *cast, *kind, *options.get("compiler_args", ())]


def compile(  # noqa: A001  the same name in every target
    model: torch.nn.Module, inputs: Sequence[torch.Tensor], options: Dict[str, Any]
) -> torch.jit.ScriptModule:
    """Return ``model`` compiled by torch-neuronx at the shapes of ``inputs``; needs no chip."""
    framework = neuron.import_framework(PACKAGE)
    parameters = sum(value.numel() for value in model.parameters())
    with warnings.catch_warnings(), neuron.layers_in_parts():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        compiled: torch.jit.ScriptModule = framework.trace(
            neuron.TupleModel(model),
            tuple(inputs),
            compiler_args=compiler_args(options, parameters),
            inline_weights_to_neff=not options.get("separate_weights", False),
            # Compiling must not take cores from workers that serve on this host.
            cpu_backend=True,
        )
        if options.get("dynamic_batch", False):
            compiled = framework.dynamic_batch(compiled)
    return compiled


def open_module(path: Path) -> torch.jit.ScriptModule:
    """Return the compiled file as a module, on a core."""
    neuron.import_framework(PACKAGE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return module


def load(path: Path, specs: Sequence[TensorSpec], options: Dict[str, Any]) -> Callable[..., Outputs]:
    """Return the compiled file, loaded on the leased cores, as a function of tensors that gives a tuple of them."""
    framework = neuron.import_framework(PACKAGE)
    module = open_module(path)
    if options.get("separate_weights", False):
        framework.move_trace_to_device(module, 0)  # else weights would be copied to the device with each call
    parallel = int(options.get("data_parallel", 1))
    split = parallel > 1 and specs[0].shape[0] % parallel == 0
    return neuron.make_runner(module, device_ids=range(parallel), split=split, wrap=framework.DataParallel)
