"""Triton as a peer, as far as it goes without Triton: its configuration, requests, answers, and what is missing."""

import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarking.load import Connection, LoadPlan, make_headers
from benchmarking.measuring import drive
from benchmarking.systems import Running, trace_pictures
from benchmarking.triton import HEADERS, decode_answer, find_triton, make_config, run_triton
from handlers.artifact import Golden
from serving.errors import PortInUse, ServerError
from tests.answering import answering
from tests.forging import make_record
from tests.ports import find_port_row

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
TOLD = b'{"model_name":"pictures","outputs":[{"name":"ANSWER","datatype":"UINT8","shape":[1,%d],"parameters":{%s}}]}'


def make_answer(tensor: bytes, size: int) -> bytes:
    """Return an answer as Triton's HTTP extension for binary tensors writes it."""
    return TOLD % (len(tensor), b'"binary_data_size":%d' % size) + tensor


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"instances": 1, "delay_ms": 0.0}, "instance_group [ { count: 1, kind: KIND_CPU } ]"),
        ({"instances": 2, "delay_ms": 0.0}, "instance_group [ { count: 2, kind: KIND_CPU } ]"),
        ({"instances": 1, "delay_ms": 0.0}, "dynamic_batching { max_queue_delay_microseconds: 0 }"),
        ({"instances": 1, "delay_ms": 0.5}, "dynamic_batching { max_queue_delay_microseconds: 500 }"),
        ({"instances": 1, "delay_ms": 5.0, "batch": 4}, "max_batch_size: 4"),
        ({"instances": 1, "delay_ms": 5.0}, "max_batch_size: 8"),
        ({"instances": 1, "delay_ms": 0.0}, 'parameters { key: "fused", value: { string_value: "false" } }'),
        (
            {"instances": 1, "delay_ms": 0.0, "fused": True},
            'parameters { key: "fused", value: { string_value: "true" } }',
        ),
    ],
)
def test_the_configuration_says_what_was_asked(settings: dict[str, float], line: str) -> None:
    """Instances on the processor, the delay in microseconds, the batch of every other system."""
    assert line in make_config(**settings).splitlines()  # type: ignore[arg-type]


def test_brackets_of_the_configuration_are_closed() -> None:
    """Protobuf's text format is read by nothing here; a bracket that is left open would show at the server only."""
    text = make_config(instances=1, delay_ms=0.0)
    while re.search(r"\[[^][{}]*\]|\{[^][{}]*\}", text):
        text = re.sub(r"\[[^][{}]*\]|\{[^][{}]*\}", "", text)
    assert not re.search(r"[][{}]", text)


def test_requests_are_raw_and_answers_not_compressed() -> None:
    """Triton's own headers stand beside the usual ones, and one of them in its place."""
    plan = LoadPlan(port=1, path="/", bodies=[b""], content_types=["image/png"], seconds=1, headers=HEADERS)
    headers = make_headers(plan, "image/png")
    assert headers["Inference-Header-Content-Length"] == "0"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Content-Type"] == "image/png"


def test_the_json_of_an_answer_is_what_follows_its_description() -> None:
    """A brace in a label or a line break inside makes no difference: the description tells its own end."""
    text = b'{"a}{": 0.5,\n "b": 0.25}'
    assert decode_answer(make_answer(text, len(text))) == text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b'{"error":"no picture"}',
        b'{"outputs":[]}',
        b"[1]",
        TOLD % (1, b"") + b"1",
        make_answer(b"12", 1),
        make_answer(b"12", 3),
    ],
    ids=["empty", "text", "error", "no output", "list", "no size", "too long", "cut off"],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    """It counts as a wrong answer then, whatever follows its description."""
    with pytest.raises(ValueError, match=r"Expecting|an answer"):
        decode_answer(body)


def test_the_length_of_a_description_is_not_the_answers() -> None:
    """Triton announces both, and the name of the one header ends like the other's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        plan = LoadPlan(port=server.getsockname()[1], path="/", bodies=[b""], content_types=[""], seconds=1)
        connection = Connection(plan, [b"x"])
        with connection.socket, server.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}[1]")
            assert connection.receive() == (200, b"{}[1]")


def test_answers_are_decoded_before_they_are_compared() -> None:
    """An answer is right by the JSON in its tensor; one whose tensor is cut off is wrong."""
    record = replace(make_record(), golden=(Golden("a", "a", "image/png", {"red": 1.0}),) * 2)
    bodies = [make_answer(b'{"red": 1.0}', 12), make_answer(b'{"red": 1.0}', 13)]
    with answering() as port:
        plan = LoadPlan(port=port, path="/", bodies=bodies, content_types=[""] * 2, seconds=0.3, warm_up=0.0)
        found = drive(plan, record, decode_answer)
    assert 0 < found.wrong < found.answers


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what has to be in its environment."""
    with pytest.raises(ServerError, match=r"python-x: expected the Python.* nvidia-pytriton, torch"):
        find_triton(tmp_path / "python-x")


def test_an_interpreter_without_triton_is_told_what_to_install() -> None:
    """The kit's own environment has no Triton, and is not to have it."""
    with pytest.raises(ServerError, match=r"lacks nvidia-pytriton; .* -m pip install nvidia-pytriton$"):
        find_triton(Path(sys.executable))


def make_interpreter(folder: Path, stubs: list[str]) -> Path:
    """Return an interpreter whose environment seems to hold the wheel, with Triton's stub for some Pythons."""
    package = folder / "pytriton"
    for version in stubs:
        stub = package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
        stub.parent.mkdir(parents=True)
        stub.touch()
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_what_the_wheel_holds_is_found(tmp_path: Path) -> None:
    """The stub of that interpreter's Python, and its own programs before the system's."""
    found = find_triton(make_interpreter(tmp_path, ["3.8", VERSION]))
    assert found.stub.parent.name == VERSION
    assert found.programs == tmp_path / "bin"
    assert found.server == tmp_path / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    assert found.libraries[0] == tmp_path / "nvidia_pytriton.libs"


@pytest.mark.parametrize(("stubs", "named"), [(["3.8", "3.9"], "3.8, 3.9"), ([], "none")])
def test_a_python_without_a_stub_is_refused(tmp_path: Path, stubs: list[str], named: str) -> None:
    """The message says for which Pythons that wheel has one."""
    with pytest.raises(ServerError, match=rf"has the Python backend for {named}; "):
        find_triton(make_interpreter(tmp_path, stubs))


def test_the_model_and_its_settings_are_written(tmp_path: Path) -> None:
    """What the model in Triton's repository reads: the traced module, labels, size and normalisation."""
    body, kind = trace_pictures("tiny", tmp_path)
    assert (tmp_path / "model.pt").stat().st_size > 0
    assert set(re.findall(r'"(\w+)": ', (tmp_path / "settings.json").read_text())) == {
        *("labels", "height", "width", "mean", "std")
    }
    assert (body[1:4], kind) == (b"PNG", "image/png")


def test_stubs_of_triton_are_workers(tmp_path: Path) -> None:
    """Their processor time is told from the server's, as with TorchServe's workers."""
    script = tmp_path / "triton_python_backend_stub"
    script.write_text("import time; print(flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = Running("triton", 1, "/", psutil.Process(), tmp_path, 0.0)
        assert child.pid in [each.pid for each in running.workers()]
        child.kill()


def test_what_is_no_interpreter_is_refused(tmp_path: Path) -> None:
    """A program that fails says why."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match="no Python interpreter that works: out of order"):
        find_triton(program)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """Another server's answers are not taken for Triton's."""
    python = make_interpreter(tmp_path, [VERSION])
    with socket.create_server(("127.0.0.1", find_port_row(1))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)), run_triton("tiny", port, python=python, instances=1):
            pass


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """The message holds its status and what it has written."""
    python = make_interpreter(tmp_path, [VERSION])
    home = tmp_path / "pytriton" / "tritonserver"
    (home / "backends" / "python").mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "tritonserver").write_text("#!/bin/sh\necho no room for a model\nexit 3\n")
    (home / "bin" / "tritonserver").chmod(0o755)
    with pytest.raises(ServerError, match=r"(?s)Triton ended with status 3.*no room for a model"):  # noqa: SIM117
        with run_triton("tiny", find_port_row(1), python=python, instances=1):
            pass
