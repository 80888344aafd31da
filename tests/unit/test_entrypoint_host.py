"""What a container may use: cores, processors and memory, as kernel, driver and runtime say."""

from pathlib import Path

import pytest

from tests.entrypoints import ROOT

from entrypoint import host  # isort: skip  the folder is put on the path by tests.entrypoints

assert ROOT  # the import is what matters


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_processor_quotas_of_both_versions_are_read(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    """Version 2 has one file, version 1 two."""
    assert host.read_cpu_quota(_write(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1073741824\n"}, 2**30),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "2147483648\n"}, 2**31),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_memory_limits_of_both_versions_are_read(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    """Version 1 says a number that no machine has where there is no limit."""
    assert host.read_memory_limit(_write(tmp_path, files)) == expected


@pytest.mark.parametrize(("affinity", "quota", "expected"), [(8, None, 8), (8, 2.5, 2), (2, 4.0, 2), (8, 0.5, 1)])
def test_processors_are_the_fewer_of_affinity_and_quota(affinity: int, quota: float | None, expected: int) -> None:
    """At least one, whole ones only."""
    assert host.count_cpus(affinity, quota) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"NEURON_RT_NUM_CORES": "2"}, [0, 1]),
        ({"NEURON_RT_VISIBLE_CORES": "0-1"}, [0, 1]),
        ({"NEURON_RT_VISIBLE_CORES": "0,3", "NEURON_RT_NUM_CORES": "1"}, [0, 3]),
        ({"NEURON_RT_VISIBLE_CORES": "nonsense"}, [0, 1, 2, 3]),
    ],
)
def test_the_runtimes_variables_limit_the_cores(environment: dict[str, str], expected: list[int]) -> None:
    """The list wins over the number, as in the Neuron runtime."""
    assert host.limit_cores([0, 1, 2, 3], environment) == expected


def test_cores_are_numbered_over_devices() -> None:
    """neuron-ls names them, or tells how many each device has."""
    assert host.number_cores([{"neuron_device": 0, "neuroncore_ids": [0, 1]}]) == [0, 1]
    assert host.number_cores([{"neuron_device": 1, "nc_count": 2}, {"neuron_device": 0, "nc_count": 4}]) == [*range(6)]


@pytest.mark.parametrize(
    ("instance", "expected"), [("inf1.xlarge", "inf1"), ("trn1.2xlarge", "inf2"), ("c5.large", None)]
)
def test_instances_belong_to_targets(instance: str, expected: str | None) -> None:
    """trn1 runs what is compiled for inf2."""
    assert host.family_of(instance) == expected


def test_an_emulated_instance_has_its_cores() -> None:
    """neuron-ls of the emulator says four for inf1.xlarge."""
    emulator = ROOT / "emulator"
    environment = {"NEURON_EMULATOR_INSTANCE": "inf1.xlarge", "PYTHONPATH": str(emulator)}
    environment["PATH"] = f"{emulator / 'bin'}:/usr/bin:/bin"
    found = host.look_around(environment)
    assert (found.cores, found.family, found.emulated) == ((0, 1, 2, 3), "inf1", "inf1.xlarge")


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder
