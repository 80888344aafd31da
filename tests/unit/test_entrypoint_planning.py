"""How many workers each model gets, and the arithmetic of what does not fit."""

from pathlib import Path
from typing import Any

import pytest

from tests.entrypoints import ROOT

from entrypoint.archives import Archive, Variant  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.faults import Fault  # isort: skip
from entrypoint.host import Host  # isort: skip
from entrypoint.planning import GIB, Memory, Plan, make_plan  # isort: skip

assert ROOT  # the import is what matters
MIB = 2**20
AMPLE = Memory(limit=None, heap=GIB, worker=400 * MIB)
INF1 = Host(cpus=4, memory=8 * GIB, cores=(0, 1, 2, 3), family="inf1", device_bytes=2 * GIB)
CPU = Host(cpus=4, memory=8 * GIB)


def _archive(name: str, *targets: str, width: int = 1, size: int = 100 * MIB, **changes: Any) -> Archive:
    variants = tuple(Variant(target, False, width, 0, size)._replace(**changes) for target in targets)
    return Archive(Path(f"/models/{name}.mar"), name, "1.0", variants, size)


def _workers(plan: Plan) -> dict[str, int]:
    return {crew.archive.name: crew.workers for crew in plan.crews}


@pytest.mark.parametrize(
    ("host", "archives", "asked", "expected"),
    [
        (CPU, [_archive("a", "cpu")], {}, {"a": 4}),
        (CPU, [_archive("a", "cpu"), _archive("b", "cpu")], {}, {"a": 2, "b": 2}),
        (CPU, [_archive("a", "cpu"), _archive("b", "cpu")], {"a": 3}, {"a": 3, "b": 1}),
        (INF1, [_archive("a", "inf1")], {}, {"a": 4}),
        (INF1, [_archive("a", "inf1", width=2)], {}, {"a": 2}),
        (INF1, [_archive("a", "inf1", width=2), _archive("b", "inf1")], {}, {"a": 1, "b": 2}),
        (INF1, [_archive("a", "inf1", width=4)], {}, {"a": 1}),
        (INF1, [_archive("a", "inf1", width=3)], {}, {"a": 1}),
        # Ranges start at a multiple of their width: of seven cores, 3 to 6 hold one range of two.
        (
            INF1._replace(cores=tuple(range(7))),
            [_archive("a", "inf1", width=3), _archive("b", "inf1", width=2)],
            {"a": 1},
            {"a": 1, "b": 1},
        ),
        (INF1, [_archive("a", "inf1"), _archive("b", "cpu")], {}, {"a": 4, "b": 4}),
        (CPU, [_archive("a", "inf1", "cpu")], {}, {"a": 4}),
        (CPU, [_archive("foreign")], {}, {"foreign": 1}),
        (CPU, [_archive("foreign")], {"foreign": 3}, {"foreign": 3}),
        (CPU._replace(cpus=1), [_archive("a", "cpu"), _archive("b", "cpu")], {}, {"a": 1, "b": 1}),
    ],
)
def test_cores_are_shared_in_turn(
    host: Host, archives: list[Archive], asked: dict[str, int], expected: dict[str, int]
) -> None:
    """One worker for each model, then one more in turn while contiguous cores are left; what is asked for is given."""
    assert _workers(make_plan(archives, host, AMPLE, asked)) == expected


@pytest.mark.parametrize(
    ("host", "archives", "asked", "message"),
    [
        (INF1, [_archive("a", "inf1")], {"a": 5}, r"a 5 x 1 = 5 NeuronCores, and there are 4: ask for fewer"),
        (INF1, [_archive("a", "inf1", width=4), _archive("b", "inf1")], {}, r"a 1 x 4 \+ b 1 x 1 = 5 NeuronCores"),
        (INF1, [_archive("a", "inf1", width=3), _archive("b", "inf1", width=2)], {}, r"= 5 NeuronCores"),
        (
            CPU,
            [_archive("a", "cpu")],
            {"a": 17},
            r"a 17 x 1 = 17 processors, and there are 4, each shared by at most 4",
        ),
        (CPU, [_archive("a", "inf1")], {}, r"no variant of a\.mar can run here: inf1: there is no NeuronCore"),
        (INF1, [_archive("a", "inf2")], {}, r"inf2: the chips here are inf1; trace the model for TARGET=inf1"),
        (INF1, [_archive("a", "inf1", emulated=True)], {}, r"inf1: it was compiled by the emulator"),
        (INF1._replace(emulated="inf1.xlarge"), [_archive("a", "inf1")], {}, r"asks for the emulator"),
        (INF1, [_archive("a", "inf1", device_bytes=3 * GIB)], {}, r"it takes 3\.00 GiB on a core, which has 2 GiB"),
        (CPU, [_archive("a", "cpu")], {"b": 1}, r"TSN_WORKERS names b; served are a"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    host: Host, archives: list[Archive], asked: dict[str, int], message: str
) -> None:
    """Workers, cores of each, their sum, what there is, and what to do."""
    with pytest.raises(Fault, match=message):
        make_plan(archives, host, AMPLE, asked)


def test_memory_lowers_what_nobody_asked_for() -> None:
    """The model that takes most gives first, and the plan says so."""
    memory = Memory(limit=int(3.5 * GIB), heap=GIB, worker=400 * MIB)
    plan = make_plan([_archive("a", "cpu", size=600 * MIB), _archive("b", "cpu")], CPU, memory, {})
    assert _workers(plan) == {"a": 1, "b": 2}
    assert "a: 1 workers instead of 2, because of the memory limit" in plan.warnings


@pytest.mark.parametrize("asked", [{"a": 3}, {"a": 4}])
def test_memory_never_lowers_what_was_asked_for(asked: dict[str, int]) -> None:
    """It refuses instead, with the sum."""
    memory = Memory(limit=2 * GIB, heap=GIB, worker=400 * MIB)
    with pytest.raises(Fault, match=r"server 1\.20 \+ a \d x 0\.49 = [\d.]+ GiB, and the limit is 2\.00 GiB"):
        make_plan([_archive("a", "cpu")], CPU, memory, asked)


def test_files_written_to_memory_count() -> None:
    """A tmpfs takes of the container's memory."""
    tight = Memory(limit=int(1.8 * GIB), heap=GIB, worker=400 * MIB)
    one = {"a": 1}
    assert make_plan([_archive("a", "cpu")], CPU, tight, one)
    with pytest.raises(Fault, match=r"files in memory 0\.50"):
        make_plan([_archive("a", "cpu")], CPU, tight._replace(written=GIB // 2), one)


def test_the_plan_writes_its_arithmetic() -> None:
    """Cores and memory, for the log of a container."""
    plan = make_plan([_archive("a", "inf1", width=2)], INF1._replace(emulated=None), AMPLE, {})
    assert plan.lines[0] == "a 2 x 2 = 4 of 4 NeuronCores"
    assert plan.lines[1] == "memory, estimated: server 1.20 + a 2 x 0.49 = 2.17 GiB without a limit"
