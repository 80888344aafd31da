"""The target ``inf1``: AWS Inferentia 1, through torch-neuron (or its emulator, which has the same interface)."""

import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from handlers import neuron
from handlers.artifact import TensorSpec
from handlers.neuron import Outputs, core_kind

PACKAGE = "torch_neuron"
# The compiler's own default casts all; documents disagree about it, so that it is always said.
_FAST_MATH = {"all": "all", "matmult": "fp32-cast-matmult", "none": "none"}

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
    return neuron.find_missing("inf1", PACKAGE, emulated=emulated)


def host_cores() -> List[int]:
    """Return the numbers of this host's NeuronCores."""
    return neuron.find_cores("inf1")


def places() -> int:
    """Return how many workers may share a core: one, the runtime gives a core to one process."""
    return 1


def prepare(leased: Sequence[int]) -> None:
    """Claim the leased cores for this process and import torch_neuron, before anything is loaded."""
    neuron.claim_cores(leased, PACKAGE)


def versions() -> Dict[str, str]:
    """Return the versions that decide what ``compile`` gives."""
    framework = neuron.import_framework(PACKAGE)
    return {"torch": torch.__version__, "torch-neuron": str(getattr(framework, "__version__", "unknown"))}


def is_emulated() -> bool:
    """Return whether ``compile`` gives what runs on the emulator only."""
    return neuron.is_emulated(PACKAGE)


def check_options(options: Dict[str, Any]) -> List[str]:
    """Return the faults in a recipe's options for this target."""
    return neuron.check_options(options, pipeline=True)


def cores_per_worker(options: Dict[str, Any], parameters: int, default: int) -> int:
    """Return how many cores a worker leases."""
    return neuron.count_worker_cores(options, parameters, default)


def compiled_batch(batch: int, sizes: Sequence[int], options: Dict[str, Any]) -> int:
    """Return the batch size to compile where a worker is to run ``batch`` items; see ``neuron.compiled_batch``."""
    return neuron.compiled_batch(batch, sizes, options)


def compiler_args(options: Dict[str, Any], parameters: int) -> List[str]:
    """Return the words that neuron-cc is given."""
    words = ["--fast-math", _FAST_MATH[options.get("cast", "all")]]
    pipeline = neuron.pipeline_cores(options, parameters)
    words += ["--neuroncore-pipeline-cores", str(pipeline)] if pipeline > 1 else []
    return words + list(options.get("compiler_args", ()))


def compile(  # noqa: A001  the same name in every target
    model: torch.nn.Module, inputs: Sequence[torch.Tensor], options: Dict[str, Any]
) -> torch.jit.ScriptModule:
    """Return ``model`` compiled by torch-neuron at the shapes of ``inputs``; needs no chip."""
    framework = neuron.import_framework(PACKAGE)
    parameters = sum(value.numel() for value in model.parameters())
    with warnings.catch_warnings(), neuron.layers_in_parts():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        compiled: torch.jit.ScriptModule = framework.trace(
            neuron.TupleModel(model),
            tuple(inputs),
            compiler_args=compiler_args(options, parameters),
            dynamic_batch_size=bool(options.get("dynamic_batch", False)),
            separate_weights=bool(options.get("separate_weights", False)),
        )
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
    parallel = int(options.get("data_parallel", 1))
    split = parallel > 1 and specs[0].shape[0] % parallel == 0
    return neuron.make_runner(module, device_ids=range(parallel), split=split, wrap=framework.DataParallel)
