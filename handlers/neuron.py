"""What the targets inf1 and inf2 share: devices and cores of this host, real or emulated, and options of a compile."""

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from glob import glob
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch

from handlers import cores
from handlers.errors import NoCores
from handlers.handler import as_tuple

# Names the instance that the emulator stands in for; set by EMULATE=1.
INSTANCE_VARIABLE = "NEURON_EMULATOR_INSTANCE"
DEVICES, _SYSFS = "/dev/neuron[0-9]*", "/sys/devices/virtual/neuron_device/neuron[0-9]*"
_TOOLS = "/opt/aws/neuron/bin"  # where AWS's packages put neuron-ls
_CORES_PER_CHIP = {"inf1": 4, "inf2": 2}  # AWS docs: about-neuron/arch/neuron-hardware/{inf1,inf2}-arch.rst
_CASTS = ("all", "matmult", "none")
_LS_PATIENCE = 30.0  # seconds; neuron-ls asks the driver of every device
# AWS docs: about-neuron/arch/neuron-features/neuroncore-pipeline.rst, 4 * round(weights / 2e7).
_WEIGHTS_PER_STEP, _CORES_PER_STEP = 2e7, 4

Outputs = Tuple[torch.Tensor, ...]


def find_missing(family: str, package: str, *, emulated: bool) -> Optional[str]:
    """Return why a variant for ``family``, "inf1" or "inf2", cannot be used on this host, or None."""
    devices, instance = find_devices(), os.environ.get(INSTANCE_VARIABLE)
    if emulated:
        return _find_missing_emulator(family, package, devices, instance)
    if instance is not None:
        return f"it is compiled for a chip, and {INSTANCE_VARIABLE}={instance} asks for the emulator"
    if not devices:
        return "this host has no Neuron device (/dev/neuron0); in a container, give it one with --device=/dev/neuron0"
    generation = read_generation()
    if generation not in (None, family):
        return f"this host's chips are {generation}; trace the model for TARGET={generation}"
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed in this Python; serve from the AWS Deep Learning Container for {family}"
    return None


def _find_missing_emulator(family: str, package: str, devices: List[str], instance: Optional[str]) -> Optional[str]:
    if devices:
        return (
            f"it was compiled by the emulator and never runs on a host with a chip ({devices[0]}); "
            "trace it with the Neuron SDK"
        )
    if instance is None:
        return f"it is emulated, and the emulator was not asked for (EMULATE=1 sets {INSTANCE_VARIABLE})"
    if importlib.util.find_spec("neuron_emulator") is None or importlib.util.find_spec(package) is None:
        return "it is emulated, and the emulator's folder is not on PYTHONPATH (EMULATE=1 puts it there)"
    if generation_of(instance) != family:
        return f"the emulated {instance} has no {family} cores"
    return None


def find_devices() -> List[str]:
    """Return the files of this host's real Neuron devices."""
    return sorted(glob(DEVICES))


def core_kind() -> str:
    """Return the name that leases on NeuronCores go by: each emulated instance counts as a host of its own."""
    instance = os.environ.get(INSTANCE_VARIABLE)
    return f"neuron-{instance}" if instance else "neuron"


def generation_of(instance: str) -> Optional[str]:
    """Return the target that an instance type runs.

    >>> generation_of("inf1.xlarge"), generation_of("trn1.2xlarge"), generation_of("c5.large")
    ('inf1', 'inf2', None)
    """
    return {"inf1": "inf1", "inf2": "inf2", "trn1": "inf2", "trn1n": "inf2"}.get(instance.partition(".")[0])


def read_generation() -> Optional[str]:
    """Return the target of this host's real chips as the driver tells it, or None if it does not."""
    # AWS docs: tools/neuron-sys-tools/neuron-sysfs-user-guide.rst
    for path in sorted(glob(_SYSFS + "/info/architecture/instance_type")):
        try:
            with open(path, encoding="ascii", errors="replace") as stream:
                return generation_of(stream.read().strip().lower())
        except OSError:
            continue
    return None


def find_cores(family: str) -> List[int]:
    """Return the numbers of this host's NeuronCores: from neuron-ls, the driver's files, or the devices there are."""
    listed = _list_devices()
    if listed is not None:
        return _number_cores(listed)
    counts = [len(glob(path + "/neuron_core[0-9]*")) for path in sorted(glob(_SYSFS))]
    if not any(counts):
        counts = [_CORES_PER_CHIP[family] for _ in find_devices()]
    return list(range(sum(counts)))


def _list_devices() -> Optional[List[Dict[str, Any]]]:
    tool = shutil.which("neuron-ls") or shutil.which("neuron-ls", path=_TOOLS)
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "--json-output"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=_LS_PATIENCE, check=True
        )
        found = json.loads(done.stdout.decode("utf-8"))
        return found if isinstance(found, list) else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _number_cores(devices: List[Dict[str, Any]]) -> List[int]:
    numbers: List[int] = []
    for device in sorted(devices, key=lambda each: int(each.get("neuron_device", 0))):
        ids = device.get("neuroncore_ids")
        numbers += [int(each) for each in ids] if ids else [len(numbers) + n for n in range(int(device["nc_count"]))]
    return sorted(numbers)


def claim_cores(leased: Sequence[int], package: str) -> None:
    """Make the leased cores the only ones that the Neuron runtime of this process sees, then import the framework.

    The runtime reads its variables once, at the first load; afterwards it numbers the cores from 0.
    """
    first, last = min(leased), max(leased)
    os.environ["NEURON_RT_VISIBLE_CORES"] = str(first) if first == last else f"{first}-{last}"
    os.environ.pop("NEURON_RT_NUM_CORES", None)  # of an image or a user; the list above wins anyway
    # Preparing requests is all that is left to the processors, which the workers share.
    torch.set_num_threads(max(1, len(cores.host_cpus()) // max(1, len(find_cores("inf1")))))
    import_framework(package)


def import_framework(package: str) -> ModuleType:
    """Return the framework; raise ``NoCores`` that says what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise NoCores(f"{package} cannot be imported ({exc}); serve from the AWS Deep Learning Container") from exc


def is_emulated(package: str) -> bool:
    """Whether the installed framework is the emulator."""
    return bool(getattr(import_framework(package), "EMULATED", False))


def check_options(options: Dict[str, Any], *, pipeline: bool) -> List[str]:
    """Return the faults in a recipe's options for a chip; ``pipeline`` says whether it has NeuronCore Pipelines."""
    known = ["cast", "compiler_args", "cores_per_worker", "dynamic_batch", "max_cpu_share", "separate_weights"]
    known += ["pipeline_cores"] if pipeline else []
    faults = [
        f"unknown option {name!r}, expected one of {', '.join(known)}" for name in sorted(set(options) - {*known})
    ]
    if options.get("cast", "all") not in _CASTS:
        faults.append(f"cast is {options['cast']!r}, expected one of {', '.join(_CASTS)}")
    arguments = options.get("compiler_args", ())
    if isinstance(arguments, str) or not all(isinstance(each, str) for each in arguments):
        faults.append(f"compiler_args is {arguments!r}, expected a list of texts, one for each word")
    for name in ("dynamic_batch", "separate_weights"):
        if not isinstance(options.get(name, False), bool):
            faults.append(f"{name} is {options[name]!r}, expected True or False")
    for name in ("pipeline_cores", "cores_per_worker"):
        if options.get(name, 1) != "auto" and not _is_count(options.get(name, 1)):
            faults.append(f"{name} is {options[name]!r}, expected a whole number over 0, or 'auto' for pipeline_cores")
    share = options.get("max_cpu_share", 0.0)
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        faults.append(f"max_cpu_share is {share!r}, expected a number from 0 to 1")
    return faults or _check_cores(options)


def _check_cores(options: Dict[str, Any]) -> List[str]:
    pipeline, worker = options.get("pipeline_cores", 1), options.get("cores_per_worker")
    if worker is not None and pipeline not in (1, worker):
        return [
            f"pipeline_cores is {pipeline!r} and cores_per_worker {worker}: torch_neuron's DataParallel takes no "
            "pipelined models, so that a worker has one pipeline; leave cores_per_worker out"
        ]
    return []


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def pipeline_cores(options: Dict[str, Any], parameters: int) -> int:
    """Return the cores of one pipelined copy: the option, or AWS's formula 4 * round(weights / 2e7) for "auto"."""
    asked = options.get("pipeline_cores", 1)
    if asked == "auto":
        return max(1, _CORES_PER_STEP * round(parameters / _WEIGHTS_PER_STEP))
    return int(asked)


def count_worker_cores(options: Dict[str, Any], parameters: int, default: int) -> int:
    """Return how many cores a worker leases: those of its pipeline, or of its data parallel copies."""
    pipeline = pipeline_cores(options, parameters)
    return pipeline if pipeline > 1 else int(options.get("cores_per_worker", default))


def compiled_batch(batch: int, sizes: Sequence[int], options: Dict[str, Any]) -> int:
    """Return the batch size to compile where a worker is to run ``batch`` items on its data parallel copies.

    With ``dynamic_batch`` one module of the smallest size serves all; a batch that does not split evenly runs on one
    core.
    """
    if options.get("dynamic_batch"):
        return min(sizes)
    parallel = int(options.get("data_parallel", 1))
    return batch // parallel if batch % parallel == 0 else batch


def make_runner(
    module: Any, *, device_ids: Sequence[int], split: bool, wrap: Callable[..., Any]
) -> Callable[..., Outputs]:
    """Return a loaded module as a function of tensors; ``split`` spreads a batch over ``device_ids``.

    ``wrap`` is the framework's ``DataParallel``. Its dynamic batching is off: every part has the compiled size.
    """
    call = module
    if split:
        call = wrap(module, device_ids=list(device_ids), dim=0)
        call.disable_dynamic_batching()
        call.num_workers = 2 * len(device_ids)  # AWS documents this default; fewer were measured on inf2

    def run(*tensors: torch.Tensor) -> Outputs:
        with torch.inference_mode():
            return as_tuple(call(*(tensor.contiguous() for tensor in tensors)))

    return run


def leased_count() -> int:
    """Return how many cores the variable set by ``claim_cores`` gives to this process."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", os.environ.get("NEURON_RT_VISIBLE_CORES", ""))
    if not found:
        return 1
    return int(found[2] or found[1]) - int(found[1]) + 1


@contextmanager
def layers_in_parts() -> Iterator[None]:
    """Let torch trace its transformer layers as their parts: fused ones, for CPUs, are unknown to chips' compilers."""
    switch = getattr(getattr(torch.backends, "mha", None), "set_fastpath_enabled", None)
    before = torch.backends.mha.get_fastpath_enabled() if switch else True
    if switch:
        switch(False)
    try:
        yield
    finally:
        if switch:
            switch(before)


class TupleModel(torch.nn.Module):
    """The model with its outputs as a tuple, which every framework traces."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: torch.Tensor) -> Outputs:
        """Return the outputs as a tuple."""
        return as_tuple(self.model(*tensors))
