"""What a host lacks for a chip's compiler and driver, and what an instance lacks for a model."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_COMPILERS = {"inf1": "neuron-cc", "inf2": "neuronx-cc"}
_FRAMEWORKS = {"inf1": "torch_neuron", "inf2": "torch_neuronx"}
_DRIVER = Path("/sys/module/neuron/version")
# AWS docs: announce-correction-neuron-driver-support-inf1.rst, and release-notes/components/containers.rst.
_LAST_INF1_DRIVER, _FIRST_INF2_DRIVER = (2, 24), (2, 27)
# AWS docs: containers of torch-neuron 1.13.1; protobuf from 3.20 on refuses the generated code of neuron-cc.
_LAST_INF1_PYTHON, _PROTOBUF_LIMIT = (3, 10), (3, 20)
_GIB_PER_CORE = {"inf1": 2.0, "inf2": 16.0}  # AWS docs: bucketing-app-note.rst, inf2-arch.rst
_WEIGHTS_PER_STEP, _CORES_PER_STEP = 2e7, 4  # AWS docs: neuroncore-pipeline.rst


@dataclass(frozen=True)
class HostFacts:
    """What decides whether a real SDK works here."""

    python: tuple[int, int]
    protobuf: str | None  # installed version
    compiler: bool  # whether neuron-cc or neuronx-cc is on PATH
    driver: str | None  # version of the kernel's module, None without one


def find_host_traps(target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return faults and warnings of this host for compiling with the real SDK of ``target``; none without it."""
    framework = importlib.util.find_spec(_FRAMEWORKS[target])
    # The emulator's frameworks lie beside it. That it can be imported says nothing: certifying uses its arithmetic.
    if framework is None or (Path(framework.origin or "").parent.parent / "neuron_emulator").is_dir():
        return (), ()  # the target itself says what is missing, and the emulator needs none of this
    return judge_host(target, _read_facts(target))


def judge_host(target: str, facts: HostFacts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the faults and the warnings in a host's facts, a sentence each."""
    faults, warnings = [], []
    if not facts.compiler:
        name = _COMPILERS[target]
        extra = "neuron-cc[tensorflow]" if target == "inf1" else "neuronx-cc"
        faults.append(f"{name} is not installed or not on PATH; install {extra} from AWS's package index")
    if target == "inf1":
        if facts.python > _LAST_INF1_PYTHON:
            found = ".".join(map(str, facts.python))
            faults.append(f"this is Python {found}, torch-neuron ends at 3.10; build in AWS's container for inf1")
        if facts.protobuf is not None and _parse(facts.protobuf) >= _PROTOBUF_LIMIT:
            faults.append(f"protobuf {facts.protobuf} is installed, neuron-cc needs one before 3.20 (AWS pins 3.19.5)")
    if facts.driver is not None:
        warnings += _judge_driver(target, facts.driver)
    return tuple(faults), tuple(warnings)


def find_memory_faults(
    model: torch.nn.Module, target: str, options: Mapping[str, Any], modules: int, instance: Any = None
) -> Iterator[str]:
    """Yield the faults of a model too large for its cores; ``modules`` are compiled ones that a worker loads.

    ``instance`` has ``name``, ``cores`` and ``device_gib_per_core``; without it, the smallest of the family counts.
    """
    parameters = sum(each.numel() for each in model.parameters())
    cores = options.get("pipeline_cores", 1)
    cores = max(1, _CORES_PER_STEP * round(parameters / _WEIGHTS_PER_STEP)) if cores == "auto" else int(cores)
    if instance is not None and cores > instance.cores:
        yield (
            f"pipeline_cores is {cores}, {instance.name} has {instance.cores}; AWS's formula 4 * round(weights / 2e7) "
            f"gives {max(1, _CORES_PER_STEP * round(parameters / _WEIGHTS_PER_STEP))}: take fewer, or a larger instance"
        )
    cast = options.get("cast", "all" if target == "inf1" else "matmult")
    width = 2 if cast == "all" or (target == "inf1" and cast == "matmult") else 4
    copies = 1 if options.get("dynamic_batch") else modules
    limit = instance.device_gib_per_core if instance is not None else _GIB_PER_CORE[target]
    needed = parameters * width * copies / cores / 2**30
    if needed > limit:
        yield (
            f"{copies} compiled modules of {parameters / 1e6:.0f} million weights in {width} bytes take {needed:.1f} "
            f"GiB of a core, which has {limit:.0f} (status=4 Allocation Failure); use fewer batch sizes and buckets"
            + (", or more pipeline_cores" if target == "inf1" else "")
        )


def _judge_driver(target: str, driver: str) -> list[str]:
    found = _parse(driver)
    if target == "inf1" and found > _LAST_INF1_DRIVER:
        return [f"driver {driver} no longer knows inf1; pin aws-neuronx-dkms to 2.24.*"]
    if target == "inf2" and found < _FIRST_INF2_DRIVER:
        return [f"driver {driver} is too old for containers of SDK 2.30 and later; install one after 2.26"]
    return []


def _read_facts(target: str) -> HostFacts:
    try:
        protobuf: str | None = version("protobuf")
    except PackageNotFoundError:
        protobuf = None
    driver = _DRIVER.read_text(encoding="ascii").strip() if _DRIVER.is_file() else None
    compiler = shutil.which(_COMPILERS[target], path=None) is not None
    return HostFacts((sys.version_info.major, sys.version_info.minor), protobuf, compiler, driver)


def _parse(text: str) -> tuple[int, int]:
    numbers = [int(part) if part.isdigit() else 0 for part in (*text.split("."), "0")]
    return numbers[0], numbers[1]
