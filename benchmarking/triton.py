"""NVIDIA Triton with its Python backend as a peer of the benchmark: the same job, set up to be quick.

The server comes from the wheel ``nvidia-pytriton``, which carries ``tritonserver``, the Python backend and a stub of it
for each release of Python, and runs on a CPU. It lives in an environment of its own: the kit needs none of it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from benchmarking.systems import STOCK_BATCH, Running, launch, trace_pictures
from serving.errors import PortInUse, ServerError
from serving.ports import becomes_free, describe_listener

NAME = "pictures"  # of the model in Triton's repository
# The body is the one input tensor itself, without JSON around it; and answers of 0.3 KB are not to be compressed, which
# Triton does for every client that says it can read that.
HEADERS = {"Inference-Header-Content-Length": "0", "Accept-Encoding": "identity"}
_CONTENT_TYPE = "application/octet-stream"
_PATIENCE = 120.0  # seconds for the server to be ready
_ENDING = 5.0  # seconds for it to end, and for its stubs after it
# Of 0, 1 and 5 ms: without one, two instances split what there is into batches of three to five.
DELAY_MS = 1.0
_HTTP_THREADS = 8  # Triton's default
_MODEL = Path(__file__).with_name("triton_model.py")
_NEEDED = {"pytriton": "nvidia-pytriton", "torch": "torch", "numpy": "numpy", "PIL": "pillow"}  # module -> package
# Prints the folders of the modules, of the interpreter's shared library, and for which Python a stub is needed. Nothing
# is imported: that would take seconds.
_PROBE = """
import importlib.util, json, sys, sysconfig
found = {name: importlib.util.find_spec(name) for name in sys.argv[1:]}
folders = {name: list(each.submodule_search_locations)[0] for name, each in found.items() if each}
print(json.dumps([folders, sysconfig.get_config_var("LIBDIR"), "%d.%d" % sys.version_info[:2]]))
"""


@dataclass(frozen=True)
class Distribution:
    """Triton as an environment has it."""

    server: Path  # the program
    libraries: tuple[Path, ...]  # the folders of those that it and the stub are linked with
    backend: Path  # the folder of the Python backend
    stub: Path  # the program that runs models, for that environment's Python
    programs: Path  # the folder of the interpreter: the stub takes its packages from there


def find_triton(python: Path) -> Distribution:
    """Return the Triton in the environment of an interpreter; raise ``ServerError`` that says what to install."""
    if not python.is_file():
        packages = ", ".join(_NEEDED.values())
        raise ServerError(f"{python}: expected the Python interpreter of an environment with {packages}; found none")
    done = subprocess.run([python, "-c", _PROBE, *_NEEDED], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{python} is no Python interpreter that works: {done.stderr.strip()[-500:]}")
    folders, shared, version = json.loads(done.stdout.splitlines()[-1])
    missing = " ".join(package for module, package in _NEEDED.items() if module not in folders)
    if missing:
        raise ServerError(f"{python} lacks {missing}; install it there: {python} -m pip install {missing}")
    package = folders["pytriton"]
    home = Path(package) / "tritonserver"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        found = ", ".join(sorted(each.parent.name for each in stub.parent.parent.glob("*/*"))) or "none"
        raise ServerError(
            f"{python} is Python {version}, and its nvidia-pytriton has the Python backend for {found}; "
            "make the environment with one of those"
        )
    # The stub is linked with libpython: without its folder it takes the system's, of another patch release.
    libraries = (Path(package).parent / "nvidia_pytriton.libs", Path(shared))
    programs = python.absolute().parent  # not resolved: a virtual environment's interpreter is a link
    return Distribution(home / "bin" / "tritonserver", libraries, home / "backends" / "python", stub, programs)


def make_config(*, instances: int, delay_ms: float, fused: bool = False, batch: int = STOCK_BATCH) -> str:
    """Return the text of a model's ``config.pbtxt``: encoded pictures of any length in, JSON texts out.

    Tensors are bytes rather than strings: the backend hands them over as they lie in shared memory, while it packs and
    unpacks a string one by one. Pictures differ in length, and a batch may hold them all the same (ragged).
    """
    tensor = 'name: "{}", data_type: TYPE_UINT8, dims: [ -1 ]'
    return (
        f'name: "{NAME}"\nbackend: "python"\nmax_batch_size: {batch}\n'
        f"input [ {{ {tensor.format('PICTURE')}, allow_ragged_batch: true }} ]\n"
        f"output [ {{ {tensor.format('ANSWER')} }} ]\n"
        f"instance_group [ {{ count: {instances}, kind: KIND_CPU }} ]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {delay_ms * 1000:.0f} }}\n"
        f'parameters {{ key: "fused", value: {{ string_value: "{str(fused).lower()}" }} }}\n'
    )


def decode_answer(body: bytes) -> bytes:
    """Return the JSON of an answer; raise ``ValueError`` if it is none.

    Triton puts a JSON object that describes the tensors before them; its length stands in a header of the answer, and
    follows from its end as well.
    """
    described, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    try:
        size = described["outputs"][0]["parameters"]["binary_data_size"]
    except (LookupError, TypeError) as error:
        raise ValueError(f"an answer without a binary tensor: {body[:200]!r}") from error
    if len(body) != end + size:
        raise ValueError(f"an answer of {len(body)} bytes; expected {end} of head and {size} of tensor")
    return body[end:]


@contextmanager
def run_triton(
    model: str, port: int, *, python: Path, instances: int, delay_ms: float = DELAY_MS, fused: bool = False
) -> Iterator[Running]:
    """Serve a recipe's picture classifier by Triton, for the time of a ``with``; raise ``ServerError``.

    ``python`` is the interpreter of an environment with ``nvidia-pytriton``; ``instances`` processes run the model,
    with one thread each, and wait ``delay_ms`` milliseconds for a batch to fill.
    ``fused`` switches on torch's oneDNN graph fuser, as the kit does, which is not what its users find in a guide.
    """
    distribution = find_triton(python)
    if not becomes_free(port):
        raise PortInUse(f"port in use: {port} ({describe_listener(port)}), which Triton was to listen on")
    with tempfile.TemporaryDirectory(prefix="triton-") as name:
        folder = Path(name)
        golden = _write_repository(model, folder, make_config(instances=instances, delay_ms=delay_ms, fused=fused))
        _copy_backend(distribution, folder)
        began = time.monotonic()
        process = _launch(distribution, folder, port)
        try:
            server = psutil.Process(process.pid)
            running = Running(
                f"triton, {instances} instance(s)" + (", fused" if fused else ""),
                port,
                f"/v2/models/{NAME}/infer",
                server,
                folder / "logs",
                seconds=_wait_for_answer(process, port, golden, folder) - began,
                headers=HEADERS,
                decode=decode_answer,
            )
            yield running
        finally:
            _stop(process)
            for each in Path("/dev/shm").glob(f"{folder.name}*"):  # noqa: S108  where Triton makes its shared memory
                each.unlink(missing_ok=True)


def _write_repository(model: str, folder: Path, config: str) -> bytes:
    """Write ``folder/models``; return the body of a golden request."""
    version = folder / "models" / NAME / "1"
    version.mkdir(parents=True)
    golden, _ = trace_pictures(model, version)
    shutil.copy(_MODEL, version / "model.py")
    (version.parent / "config.pbtxt").write_text(config)
    return golden


def _copy_backend(distribution: Distribution, folder: Path) -> None:
    """Lay out ``folder/backends`` as Triton looks for them: the stub of the right Python beside the library."""
    backend = folder / "backends" / "python"
    shutil.copytree(distribution.backend, backend, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(distribution.stub, backend / distribution.stub.name)


def _launch(distribution: Distribution, folder: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [str(distribution.server), f"--model-repository={folder / 'models'}"]
    command += [f"--backend-directory={folder / 'backends'}", "--disable-auto-complete-config"]
    command += [f"--backend-config=python,shm-region-prefix-name={folder.name}"]
    command += ["--http-address=127.0.0.1", f"--http-port={port}", f"--http-thread-count={_HTTP_THREADS}"]
    command += ["--allow-grpc=false", "--allow-metrics=false", "--log-info=false", "--log-warning=false"]
    command += ["--exit-timeout-secs=1"]  # it waits all of it for connections that clients keep open
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment.update(OMP_NUM_THREADS="1", LD_LIBRARY_PATH=os.pathsep.join(map(str, distribution.libraries)))
    environment.update(PATH=f"{distribution.programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    return launch(command, folder, environment)


def _wait_for_answer(process: "subprocess.Popen[bytes]", port: int, picture: bytes, folder: Path) -> float:
    """Return the moment of the first answer to a picture, as ``time.monotonic`` counts."""
    url = f"http://127.0.0.1:{port}/v2/models/{NAME}/infer"
    headers = {**HEADERS, "Content-Type": _CONTENT_TYPE}
    last = "no connection"
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            answer = requests.post(url, data=picture, headers=headers, timeout=60)
            if answer.status_code == 200:
                decode_answer(answer.content)
                return time.monotonic()
            last = f"{answer.status_code} {answer.text[:300]}"
        time.sleep(0.02)
    log = (folder / "logs" / "console.log").read_text(errors="replace")[-2000:]
    ended = f"ended with status {process.returncode}" if process.poll() is not None else f"does not answer: {last}"
    raise ServerError(f"Triton {ended}\n{log}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server so that it removes its shared memory, then what is left of it and its stubs."""
    stubs: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        stubs = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(stubs, timeout=_ENDING)
    for each in alive:
        with contextlib.suppress(psutil.Error):
            each.kill()
