"""neuronx-cc as the emulator has it: its flags and how it fails.

AWS docs: compiler/neuronx-cc/api-reference-guide/index.rst.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from neuron_emulator.arithmetic import from_flags
from neuron_emulator.modules import NeuronSubgraph, compile_graph

VERSION = "2.9.0.2.15.32035+emulator"
COMPILER_VERSION = "2.26.6360.0+emulator"
# True: the flag takes a value.
_FLAGS = {
    **dict.fromkeys(("--target", "--model-type", "--auto-cast", "--auto-cast-type", "--optlevel", "-O"), True),
    **dict.fromkeys(
        ("--logical-nc-config", "--lnc", "-lnc", "--framework", "--output", "--verbose", "--workdir"), True
    ),
    **dict.fromkeys(("--distribution-strategy", "--internal-hlo2tensorizer-options", "--tensorizer-options"), True),
    **dict.fromkeys(("--enable-saturate-infinity", "--enable-fast-context-switch"), False),
    **dict.fromkeys(("--enable-fast-loading-neuron-binaries", "--enable-mixed-precision-accumulation"), False),
    **dict.fromkeys(("--disable-mixed-precision-accumulation", "--native-int64"), False),
    **dict.fromkeys(("--implicit-integer-downcast", "--retry_failed_compilation"), False),
}
_CHOICES = {
    "--target": {"inf2", "trn1", "trn1n", "trn2"},
    "--model-type": {"generic", "transformer", "unet-inference"},
    "--auto-cast": {"none", "matmult", "all"},
    "--auto-cast-type": {"bf16", "fp16", "tf32", "fp8_e4m3"},
    "--optlevel": {"1", "2", "3"},
    "-O": {"1", "2", "3"},
    "--logical-nc-config": {"1", "2"},
    "--lnc": {"1", "2"},
    "-lnc": {"1", "2"},
}


def split_args(args: str | Sequence[str] | None) -> list[str]:
    """Return the compiler's words: ``compiler_args`` may be one text or a list."""
    return shlex.split(args) if isinstance(args, str) else [word for each in args or () for word in shlex.split(each)]


def find_target(words: Sequence[str]) -> str | None:
    """Return the value of ``--target``, or None."""
    return dict(_pair(words)).get("--target")


def compile_whole(
    function: Callable[..., tuple[torch.Tensor, ...]],
    example: tuple[torch.Tensor, ...],
    *,
    words: Sequence[str],
    separate_weights: bool = False,
    workdir: str | Path | None = None,
    name: str = "graph",
) -> NeuronSubgraph:
    """Return a function of flat tensors compiled for inf2 and trn1; raise ``RuntimeError`` as neuronx-cc fails."""
    faults = find_flag_faults(words)
    if faults:
        raise RuntimeError(f"neuronx-cc failed with 1: {'; '.join(faults)}")
    compiled = compile_graph(
        function,
        example,
        name=name,
        family="inf2",
        arithmetic=from_flags("inf2", words),
        separate_weights=separate_weights,
    )
    if workdir is not None:
        folder = Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.neff").write_bytes(bytes(compiled.get_buffer("neuron_neff").numpy()))
        command = shlex.join(["neuronx-cc", "compile", "--framework", "XLA", *words, "--output", f"{name}.neff"])
        (folder / "log-neuron-cc.txt").write_text(f"Emulated: no neuronx-cc ran.\n{command}\n")
    return compiled


def find_flag_faults(words: Sequence[str]) -> list[str]:
    """Return what neuronx-cc would refuse in its flags."""
    faults = []
    for flag, value in _pair(words):
        if flag not in _FLAGS:
            faults.append(f"unrecognized arguments: {flag}")
        elif _FLAGS[flag] and value is None:
            faults.append(f"argument {flag}: expected one argument")
        elif flag in _CHOICES and value not in _CHOICES[flag]:
            faults.append(
                f"argument {flag}: invalid choice: {value!r} (choose from {', '.join(sorted(_CHOICES[flag]))})"
            )
    pairs = dict(_pair(words))
    cores = next((pairs[flag] for flag in ("--lnc", "-lnc", "--logical-nc-config") if flag in pairs), "1")
    if cores == "2" and pairs.get("--target") != "trn2":
        # AWS docs: compiler/error-codes/EARG001.rst.
        faults.append(f"[NCC_EARG001] lnc=2 not supported on {pairs.get('--target') or 'inf2'}")
    return faults


def _pair(words: Sequence[str]) -> list[tuple[str, str | None]]:
    pairs: list[tuple[str, str | None]] = []
    waiting = list(words)
    while waiting:
        flag, _, value = waiting.pop(0).partition("=")
        if flag[:2] == "-O" and len(flag) == 3:
            flag, value = "-O", flag[2]
        takes = _FLAGS.get(flag, False)
        if takes and not value and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        pairs.append((flag, value or None))
    return pairs
