"""What the targets inf1 and inf2 share: which cores there are, why a target is missing, and options worked out."""

import json
import sys
from pathlib import Path

import pytest
import torch

from handlers import neuron, targets
from handlers.errors import NoCores

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host without devices, tools or the emulator, whatever this one has."""
    monkeypatch.delenv(neuron.INSTANCE_VARIABLE, raising=False)
    for name in ("DEVICES", "_SYSFS"):
        monkeypatch.setattr(neuron, name, str(tmp_path / f"{name}[0-9]*"))
    monkeypatch.setattr(neuron, "_TOOLS", str(tmp_path / "tools"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    # Other tests may have put the emulator on the path of this process, and imported it.
    for name in [each for each in sys.modules if each.partition(".")[0] in ("neuron_emulator", "torch_neuron")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if not each.endswith("emulator")])


def add_device(tmp_path: Path, number: int = 0) -> None:
    (tmp_path / f"DEVICES{number}").touch()


def add_neuron_ls(tmp_path: Path, answer: str, status: int = 0) -> None:
    """A ``neuron-ls`` that prints ``answer``, where AWS's packages put the real one."""
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "neuron-ls"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {status}\n")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("instance", "expected"),
    [("inf1.24xlarge", "inf1"), ("inf2.xlarge", "inf2"), ("trn1n.32xlarge", "inf2"), ("trn2.48xlarge", None)],
)
def test_an_instance_type_tells_the_target(instance: str, expected: str | None) -> None:
    """Trainium 1 has Inferentia 2's cores; its successor has not."""
    assert neuron.generation_of(instance) == expected


def test_a_host_without_devices_has_no_cores() -> None:
    """No tool, no driver, no device."""
    assert neuron.find_cores("inf1") == []


@pytest.mark.parametrize(("family", "expected"), [("inf1", 8), ("inf2", 4)])
def test_devices_alone_tell_the_cores_by_the_family(tmp_path: Path, family: str, expected: int) -> None:
    """Contract 1.1, 1.2: four cores a chip on inf1, two on inf2."""
    for number in range(2):
        add_device(tmp_path, number)
    assert neuron.find_cores(family) == list(range(expected))


def test_the_drivers_files_tell_the_cores(tmp_path: Path) -> None:
    """Before the devices are counted."""
    for core in range(2):
        (tmp_path / "_SYSFS0" / f"neuron_core{core}").mkdir(parents=True)
    add_device(tmp_path)
    assert neuron.find_cores("inf1") == [0, 1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([{"neuron_device": 0, "nc_count": 4}, {"neuron_device": 1, "nc_count": 4}], list(range(8))),
        ([{"neuron_device": 1, "nc_count": 2, "neuroncore_ids": [2, 3]}], [2, 3]),
        ([], []),
    ],
)
def test_neuron_ls_tells_the_cores(tmp_path: Path, answer: list, expected: list[int]) -> None:
    """Contract 7.3: its JSON lists devices, with their cores' numbers in newer releases."""
    add_neuron_ls(tmp_path, json.dumps(answer))
    assert neuron.find_cores("inf1") == expected


@pytest.mark.parametrize(("answer", "status"), [("no JSON", 0), ("[]", 1), ('{"error": 1}', 0)])
def test_a_broken_neuron_ls_is_passed_over(tmp_path: Path, answer: str, status: int) -> None:
    """The devices are counted then."""
    add_neuron_ls(tmp_path, answer, status)
    add_device(tmp_path)
    assert neuron.find_cores("inf1") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("instance", "device", "emulated", "reason"),
    [
        (None, False, False, "this host has no Neuron device (/dev/neuron0)"),
        (None, True, False, "torch_neuron is not installed in this Python"),
        ("inf1.xlarge", True, False, "asks for the emulator"),
        (None, True, True, "never runs on a host with a chip"),
        (None, False, True, "the emulator was not asked for (EMULATE=1"),
        ("inf1.xlarge", False, True, "the emulator's folder is not on PYTHONPATH"),
    ],
)
def test_why_a_target_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: str | None, device: bool, emulated: bool, reason: str
) -> None:
    """Real and emulated never stand in for one another, and the reason says what to do."""
    if instance:
        monkeypatch.setenv(neuron.INSTANCE_VARIABLE, instance)
    if device:
        add_device(tmp_path)
    assert reason in (targets.get_target("inf1").missing(emulated) or "")


@pytest.mark.parametrize(
    ("instance", "target", "reason"),
    [("inf1.xlarge", "inf1", None), ("trn1.2xlarge", "inf2", None), ("inf2.xlarge", "inf1", "inf2.xlarge has no inf1")],
)
def test_an_emulated_host_has_the_target_of_its_instance(
    monkeypatch: pytest.MonkeyPatch, instance: str, target: str, reason: str | None
) -> None:
    """With the emulator on the path."""
    monkeypatch.setenv(neuron.INSTANCE_VARIABLE, instance)
    monkeypatch.syspath_prepend(str(ROOT / "emulator"))
    found = targets.get_target(target).missing(True)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(("leased", "expected"), [((3,), "3"), ((4, 5, 6, 7), "4-7")])
def test_claiming_cores_names_them_before_the_framework(
    monkeypatch: pytest.MonkeyPatch, leased: tuple[int, ...], expected: str
) -> None:
    """Contract 4.1: the exact list, and no count beside it, as an image may set; a missing framework is named."""
    import os

    monkeypatch.setenv("NEURON_RT_NUM_CORES", "1")
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "0")
    before = torch.get_num_threads()
    try:
        with pytest.raises(NoCores, match="no_such_framework cannot be imported"):
            neuron.claim_cores(leased, "no_such_framework")
    finally:
        torch.set_num_threads(before)
    assert os.environ["NEURON_RT_VISIBLE_CORES"] == expected
    assert "NEURON_RT_NUM_CORES" not in os.environ


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "unknown option 'precision'"),
        ({"cast": "some"}, "cast is 'some', expected one of all, matmult, none"),
        ({"compiler_args": "--fast-math none"}, "expected a list of texts, one for each word"),
        ({"dynamic_batch": 1}, "dynamic_batch is 1, expected True or False"),
        ({"pipeline_cores": 0}, "pipeline_cores is 0, expected a whole number over 0"),
        ({"max_cpu_share": 2}, "max_cpu_share is 2, expected a number from 0 to 1"),
        ({"pipeline_cores": 4, "cores_per_worker": 8}, "DataParallel takes no pipelined models"),
    ],
)
def test_a_faulty_option_is_named(options: dict, message: str) -> None:
    """What was found, and what was expected."""
    assert message in "; ".join(targets.get_target("inf1").check_options(options))


def test_inf2_has_no_pipelines() -> None:
    """NeuronCore Pipeline is of inf1 alone."""
    assert "unknown option 'pipeline_cores'" in targets.get_target("inf2").check_options({"pipeline_cores": 4})[0]


@pytest.mark.parametrize(
    ("options", "parameters", "expected"),
    [
        ({}, 1_000, 2),
        ({"cores_per_worker": 3}, 1_000, 3),
        ({"pipeline_cores": 8}, 1_000, 8),
        ({"pipeline_cores": "auto"}, 108_000_000, 20),
        ({"pipeline_cores": "auto"}, 25_600_000, 4),
        ({"pipeline_cores": "auto"}, 1_000, 2),
    ],
)
def test_a_worker_leases_its_pipeline_or_its_copies(options: dict, parameters: int, expected: int) -> None:
    """Contract 5.1: 4 * round(weights / 2e7) cores; a small model has no pipeline and takes the recipe's number."""
    assert targets.get_target("inf1").cores_per_worker(options, parameters, 2) == expected


@pytest.mark.parametrize(
    ("batch", "options", "expected"),
    [
        (8, {}, 8),
        (8, {"data_parallel": 4}, 2),
        (1, {"data_parallel": 4}, 1),
        (8, {"dynamic_batch": True}, 1),
    ],
)
def test_what_is_compiled_for_a_batch(batch: int, options: dict, expected: int) -> None:
    """A part for each copy where it splits evenly; one small module for all where the framework slices."""
    assert targets.get_target("inf2").compiled_batch(batch, (1, 8), options) == expected


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("inf1", {}, ["--fast-math", "all"]),
        ("inf1", {"cast": "matmult"}, ["--fast-math", "fp32-cast-matmult"]),
        ("inf1", {"pipeline_cores": 4}, ["--fast-math", "all", "--neuroncore-pipeline-cores", "4"]),
        ("inf2", {}, ["--target", "inf2", "--auto-cast", "matmult", "--auto-cast-type", "bf16"]),
        ("inf2", {"cast": "none", "compiler_args": ["-O1"]}, ["--target", "inf2", "--auto-cast", "none", "-O1"]),
    ],
)
def test_the_compilers_words(target: str, options: dict, expected: list[str]) -> None:
    """Contract 2.14, 3.4: the cast is always said, because documents disagree about the default."""
    assert targets.get_target(target).compiler_args(options, 1_000) == expected
