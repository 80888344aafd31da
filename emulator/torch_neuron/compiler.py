"""neuron-cc as the emulator has it: its flags, its command line, its messages in the log.

Wording: AWS docs, src/examples/pytorch/resnet50.ipynb, and public logs in the SDK's issues 106, 462 and 470.
"""

import json
import logging
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from neuron_emulator.arithmetic import from_flags
from neuron_emulator.faults import is_injected
from neuron_emulator.modules import NeuronSubgraph, compile_graph

try:
    from google.protobuf.message import DecodeError
except ImportError:  # torch alone does not bring it along, as neuron-cc does

    class DecodeError(Exception):  # type: ignore[no-redef]  # either is what the rest of the module raises
        """What protobuf raises for a file that it cannot read."""


VERSION = "1.24.0.0"
logger = logging.getLogger("Neuron")
# AWS docs: compiler/neuron-cc/command-line-reference.rst. True: the flag takes a value.
_FLAGS = {
    "--neuroncore-pipeline-cores": True,
    "--fast-math": True,
    "--fp32-cast": True,
    "--enable-saturate-infinity": False,
    "--enable-fast-loading-neuron-binaries": False,
    "--enable-fast-context-switch": False,
    "--io-config": True,
    "--output": True,
    "--verbose": True,
    "--framework": True,
    "--pipeline": True,
    "--optlevel": True,
    "-O": True,
    "--batching_en": False,
    "--static-weights": False,
    "--num-neuroncores": True,
}
_FAST_MATH = {"all", "none", "fast-relayout", "no-fast-relayout", "fp32-cast-all", "fp32-cast-all-fp16"}
_FAST_MATH |= {"fp32-cast-matmult", "fp32-cast-matmult-bf16", "fp32-cast-matmult-fp16"}
# AWS docs: archive/torch-neuron/troubleshooting-guide.rst, "2GB protobuf limit related issues".
_LARGEST_GRAPH = 2**31 - 1

# The real message ends with the address of AWS's package index.
_MISSING = (
    "Please check that neuron-cc is installed and working properly. You can install neuron-cc using "
    "'python3 -m pip install neuron-cc[tensorflow] -U'"
)


@dataclass(frozen=True)
class Job:
    """What every graph of one trace is compiled with."""

    args: tuple[str, ...] = ()  # of neuron-cc
    timeout: float | None = None  # seconds for one graph
    workdir: Path | None = None  # keeps what the compiler was given and what it said
    separate_weights: bool = False
    dynamic_batch: bool = False


def find_flag_faults(args: Sequence[str]) -> list[str]:
    """Return what neuron-cc would refuse in its flags."""
    faults, waiting = [], list(args)
    while waiting:
        flag, _, value = waiting.pop(0).partition("=")
        if flag not in _FLAGS:
            faults.append(f"unrecognized arguments: {flag}")
        elif _FLAGS[flag] and not value:
            if not waiting:
                faults.append(f"argument {flag}: expected one argument")
                continue
            value = waiting.pop(0)
            while flag == "--fast-math" and waiting and not waiting[0].startswith("-"):
                value += f" {waiting.pop(0)}"
        if flag == "--fast-math" and value and set(value.split()) - _FAST_MATH:
            faults.append(f"argument --fast-math: invalid choice: {value!r}")
    return faults


def pipeline_cores(args: Sequence[str]) -> int:
    """Return the cores that one copy of the model takes."""
    found = re.search(r"--(?:neuroncore-pipeline-cores|num-neuroncores)[= ](\d+)", " ".join(args))
    return int(found[1]) if found else 1


def compile_segment(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], name: str, job: Job
) -> NeuronSubgraph | None:
    """Return a segment compiled for inf1, or None if the compiler fails: it then runs on the processor.

    Raises ``subprocess.TimeoutExpired`` beyond ``job.timeout``, protobuf's ``DecodeError`` for weights that do not fit
    into a file of 2 GB, ``NotImplementedError`` for separate weights where the compiler is injected to be an old one.
    """
    _validate(module, job)
    folder = Path(tempfile.mkdtemp(prefix="neuron-cc-")) if job.workdir is None else job.workdir / name.strip("_$")
    command = _command_line(folder, example, job.args)
    logger.info("Compiling function %s with neuron-cc", name)
    logger.info("Compiling with command line: '%s'", subprocess.list2cmdline(command))
    began = time.monotonic()
    try:
        faults = find_flag_faults(job.args)
        if faults:
            raise subprocess.SubprocessError(
                "neuron-cc failed with the following command line call:\n"
                f"{subprocess.list2cmdline(command)}\n{'; '.join(faults)}"
            )
        compiled = compile_graph(
            module,
            example,
            name=name,
            family="inf1",
            arithmetic=from_flags("inf1", job.args),
            cores=pipeline_cores(job.args),
            separate_weights=job.separate_weights,
            dynamic_batch=job.dynamic_batch,
        )
    except (subprocess.SubprocessError, RuntimeError, IndexError) as exc:
        logger.error("neuron-cc failed with the following command line call:\n%s\n%s", " ".join(command), exc)
        logger.warning("torch.neuron.trace failed on %s; falling back to native python function call", name)
        return None
    finally:
        if job.workdir is None:
            folder.rmdir()
    if job.timeout is not None and time.monotonic() - began > job.timeout:
        raise subprocess.TimeoutExpired(command, job.timeout)
    if job.workdir is not None:
        _keep(folder, command, compiled)
    return compiled


def _validate(module: torch.nn.Module, job: Job) -> None:
    if is_injected("compiler-missing"):
        raise RuntimeError(_MISSING)
    if job.separate_weights and is_injected("compiler-old"):
        # The wording of the real framework is not documented; this one is the emulator's.
        raise NotImplementedError("separate_weights=True needs a newer neuron-cc; upgrade the compiler")
    constants = sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))
    if constants > _LARGEST_GRAPH and not job.separate_weights:
        raise DecodeError("Error parsing message with type 'tensorflow.GraphDef'")


def _command_line(folder: Path, example: Sequence[torch.Tensor], args: Sequence[str]) -> list[str]:
    inputs = {
        f"{index}:0": [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for index, tensor in enumerate(example)
    }
    return [
        *("neuron-cc", "compile", str(folder / "graph_def.pb"), "--framework", "TENSORFLOW"),
        *("--pipeline", "compile", "SaveTemps", "--output", str(folder / "graph_def.neff")),
        *("--io-config", json.dumps({"inputs": inputs, "outputs": []}), *args, "--verbose", "35"),
    ]


def _keep(folder: Path, command: Sequence[str], compiled: NeuronSubgraph) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph_def.neff").write_bytes(bytes(compiled.get_buffer("neuron_neff").numpy()))
    text = "Emulated: no neuron-cc ran.\n" + subprocess.list2cmdline(command) + "\n"
    (folder / "graph_def.neuron-cc.log").write_text(text)
