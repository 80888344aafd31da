"""How many workers a host has room for: by processors, by NeuronCores, and by the cores that others hold."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers import artifact, cores
from handlers.errors import NoTarget
from handlers.neuron import INSTANCE_VARIABLE
from serving.errors import NoRoom
from serving.host import count_processors
from serving.workers import plan_crew
from tests.forging import make_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An emulated inf1.2xlarge: four cores, eight processors, and no leases but the test's."""
    monkeypatch.setenv(INSTANCE_VARIABLE, "inf1.2xlarge")
    monkeypatch.setenv("PATH", f"{ROOT / 'emulator' / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("NEURON_EMULATOR_FOLDER", str(tmp_path / "host"))
    monkeypatch.setenv(cores.LEASE_FOLDER_VARIABLE, str(tmp_path / "leases"))
    monkeypatch.syspath_prepend(str(ROOT / "emulator"))
    yield


def make_archive(*targets: str, each: int = 1) -> artifact.Record:
    """A record with a variant for each target, with ``each`` cores for a worker."""
    variant = make_record().variants[0]
    variants = [
        dataclasses.replace(variant, target=name, emulated=name != "cpu", cores_per_worker=each) for name in targets
    ]
    return make_record(variants=tuple(variants))


def hold(count: int) -> cores.Lease:
    """Take cores as a worker of another server does."""
    return cores.take_lease("neuron-inf1.2xlarge", count, host_cores=range(4), places=1, label="other 1.0")


def test_a_processor_gets_a_worker() -> None:
    """On cpu, unless a number is given; more than processors may be asked for, because a core may be shared."""
    assert plan_crew(make_archive("cpu")).workers == count_processors()
    assert plan_crew(make_archive("cpu"), 99).workers == 99


def test_a_core_gets_a_worker_whatever_the_processors() -> None:
    """TorchServe's own default would start eight here: contract 9, trap 5."""
    assert plan_crew(make_archive("inf1")).workers == 4


@pytest.mark.parametrize(("each", "expected"), [(2, 2), (3, 1), (4, 1)])
def test_workers_of_several_cores_are_fewer(each: int, expected: int) -> None:
    """Aligned, contiguous ranges."""
    assert plan_crew(make_archive("inf1", each=each)).workers == expected


def test_cores_of_other_servers_are_left_out() -> None:
    """Two of four are held: two workers fit, or one that takes two."""
    lease = hold(2)
    assert plan_crew(make_archive("inf1")).workers == 2
    assert plan_crew(make_archive("inf1", each=2)).workers == 1
    lease.release()
    assert plan_crew(make_archive("inf1")).workers == 4


@pytest.mark.parametrize(
    ("asked", "each", "held", "message"),
    [
        (5, 1, 0, r"5 workers of tiny x 1 core\(s\) = 5 NeuronCores; inf1.2xlarge has 4, 0 held: ask for at most 4"),
        (2, 4, 0, "= 8 NeuronCores; inf1.2xlarge has 4, 0 held: ask for at most 1"),
        (4, 1, 2, r"has 4, 2 held by other 1.0 \(pid \d+\): ask for at most 2"),
        (0, 1, 4, "has 4, 4 held by other .* stop a server that holds cores"),
        (0, 8, 0, "= 8 NeuronCores; inf1.2xlarge has 4"),
    ],
)
def test_workers_beyond_the_cores_are_refused_with_the_arithmetic(
    asked: int, each: int, held: int, message: str
) -> None:
    """Before TorchServe starts."""
    lease = hold(held) if held else None
    with pytest.raises(NoRoom, match=message):
        plan_crew(make_archive("inf1", each=each), asked)
    if lease:
        lease.release()


def test_the_variant_that_runs_here_is_taken_and_the_others_are_explained() -> None:
    """An archive of inf2 and inf1 on an inf1 host."""
    crew = plan_crew(make_archive("inf2", "inf1"))
    assert crew.variant.target == "inf1"
    assert crew.passed_over == ["inf2: the emulated inf1.2xlarge has no inf2 cores"]


def test_an_archive_for_another_chip_is_refused() -> None:
    """With the reason for each variant."""
    with pytest.raises(NoTarget, match=r"no variant of tiny can run on this host: inf2: the emulated inf1\.2xlarge"):
        plan_crew(make_archive("inf2"))
