"""What torch takes with a model and nothing else: the memory that a worker's is compared with.

    python -m benchmarking.bare FOLDER

One such process imports torch and, of the kit, nothing; loads each compiled module of the cpu variant of the unpacked
archive in FOLDER with one thread and the graph fuser, as a worker does; runs each at its shape as often as the start of
a worker does; and prints its highest resident size. No handler, no decoder of pictures, no TorchServe, no metrics.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RUNS = 3  # of each module; the first two record shapes and compile for them
_FIELD = "VmHWM:"


def measure_bare(folder: Path) -> float | None:
    """Return the highest resident megabytes of torch with the model in ``folder``, None where it cannot be told.

    That is for a model without a cpu variant, or on a system without /proc. Raises ``ServerError`` if it fails.
    """
    from serving.errors import ServerError  # the process that is measured imports nothing of the kit

    if not _find_modules(folder) or read_peak_mb("self") is None:
        return None
    command = [sys.executable, "-m", "benchmarking.bare", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ServerError(f"torch with the model alone failed: {done.stderr.strip()[-2000:]}")
    return float(done.stdout)


def read_peak_mb(process: int | str) -> float | None:
    """Return the highest resident megabytes that a process has had so far, None if that cannot be read.

    The kernel's own mark (proc(5): VmHWM, in units of 1,024 bytes), so that no peak falls between two looks.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(_FIELD)]
    return int(found[0]) * 1024 / 1e6 if found else None


def _find_modules(folder: Path) -> Sequence[dict[str, Any]]:  # Any: what JSON holds
    record = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    variants = [each for each in record["variants"] if each["target"] == "cpu"]
    modules: Sequence[dict[str, Any]] = variants[0]["modules"] if variants else []
    return modules


def _run(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    torch.jit.enable_onednn_fusion(True)
    loaded = []
    for module in _find_modules(folder):
        run = torch.jit.load(str(folder / module["file"]), map_location="cpu")  # type: ignore[no-untyped-call]
        loaded.append(run)
        inputs = [torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"])) for spec in module["inputs"]]
        with torch.inference_mode():
            for _ in range(_RUNS):
                run(*inputs)


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
    print(read_peak_mb("self"))
