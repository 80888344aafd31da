"""The target ``cpu``: any x86 or ARM host, one worker for each processor."""

import copy
import os
import platform
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch

from handlers import cores
from handlers.artifact import TensorSpec
from handlers.errors import NoCores
from handlers.handler import as_tuple

PLACES_VARIABLE = "TORCHSERVE_NEURON_WORKERS_PER_CORE"
_PRECISIONS = ("fp32", "bf16")

Outputs = Tuple[torch.Tensor, ...]


def missing(emulated: bool) -> Optional[str]:
    """Return why this target cannot be used here: never, unless the variant claims to be emulated."""
    return "a cpu variant is never emulated; the record is wrong" if emulated else None


def core_kind() -> str:
    """Return the name that leases on this target's cores go by."""
    return "cpu"


def host_cores() -> List[int]:
    """Return the processors that this process may run on."""
    return cores.host_cpus()


def places() -> int:
    """Return how many workers may share a processor: 4, or ``TORCHSERVE_NEURON_WORKERS_PER_CORE``.

    A second server or model on one machine should serve slowly rather than not at all; 1 forbids it.
    Raises ``NoCores`` if the variable is no whole number over 0.
    """
    text = os.environ.get(PLACES_VARIABLE, "4")
    if not text.isdigit() or int(text) < 1:
        raise NoCores(f"{PLACES_VARIABLE} is {text!r}, expected a whole number over 0")
    return int(text)


def prepare(leased: Sequence[int]) -> None:
    """Run on the leased processors only, with as many threads, so that two workers never fight over one."""
    os.environ["OMP_NUM_THREADS"] = str(len(leased))
    torch.set_num_threads(len(leased))
    cores.bind_process(leased)


def versions() -> Dict[str, str]:
    """Return the versions that decide what ``compile`` gives."""
    return {"torch": torch.__version__, "machine": platform.machine()}


def is_emulated() -> bool:
    """Return whether ``compile`` gives what runs on an emulator only: never."""
    return False


def cores_per_worker(options: Dict[str, Any], parameters: int, default: int) -> int:
    """Return how many cores a worker leases."""
    return default


def compiled_batch(batch: int, sizes: Sequence[int], options: Dict[str, Any]) -> int:
    """Return the batch size to compile where a worker is to run ``batch`` items."""
    return batch


def check_options(options: Dict[str, Any]) -> List[str]:
    """Return the faults in a recipe's options for this target: ``precision`` is "fp32" (default) or "bf16"."""
    faults = [f"unknown option {name!r}; cpu has 'precision'" for name in sorted(set(options) - {"precision"})]
    precision = options.get("precision", "fp32")
    if precision not in _PRECISIONS:
        faults.append(f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}")
    return faults


def compile(  # noqa: A001  the same name in every target
    model: torch.nn.Module, inputs: Sequence[torch.Tensor], options: Dict[str, Any]
) -> torch.jit.ScriptModule:
    """Return ``model`` traced at the shapes of ``inputs`` and frozen.

    Weights are laid out channels-last, which the convolutions of every x86 kernel library want.
    """
    half = options.get("precision", "fp32") == "bf16"
    prepared = _ChannelsLast(model, bf16=half).eval()
    with torch.no_grad(), warnings.catch_warnings():
        # torch 2.13 says that TorchScript will go; TorchServe takes nothing else.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        traced = torch.jit.trace(prepared, tuple(inputs), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
        return frozen


def load(path: Path, specs: Sequence[TensorSpec], options: Dict[str, Any]) -> Callable[..., Outputs]:
    """Return the compiled file as a function of tensors that returns a tuple of tensors."""
    # The oneDNN graph fuser halves the time of a small residual network (docs/performance.md); it works at the first
    # runs of a loaded module, so a module is loaded apart for each shape and warmed up.
    if hasattr(torch.jit, "enable_onednn_fusion"):
        torch.jit.enable_onednn_fusion(True)
    call = _open(path).forward  # not the module itself: nobody hooks into it
    plain: List[torch.jit.ScriptModule] = []

    def run(*tensors: torch.Tensor) -> Outputs:
        if any(tensor.requires_grad for tensor in tensors):
            # Who gives tensors that require gradients wants them back: integrated gradients. The fused graph of a
            # residual network cannot be differentiated ("Schema not found for node"), the same file unfused can.
            if not plain:
                plain.append(_open(path))
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return as_tuple(plain[0](*tensors))
        with torch.inference_mode():
            return as_tuple(call(*tensors))

    return run


def _open(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return module


class _ChannelsLast(torch.nn.Module):
    """The model with its convolution weights in channels-last order, and in bf16 if asked for."""

    def __init__(self, model: torch.nn.Module, *, bf16: bool) -> None:
        super().__init__()
        self.bf16 = bf16
        model = copy.deepcopy(model)  # both conversions work in place, and the caller compares with the original
        self.model = (model.bfloat16() if bf16 else model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, *tensors: torch.Tensor) -> Outputs:
        outputs = as_tuple(self.model(*(self._convert(tensor) for tensor in tensors)))
        return tuple(tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in outputs)

    def _convert(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.bf16 and tensor.is_floating_point():
            tensor = tensor.bfloat16()
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
