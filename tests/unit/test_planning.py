"""What fits on an instance: cores dealt out, memory, refusals with their arithmetic, and the command."""

import dataclasses
import json
from pathlib import Path

import pytest

from cli.main import main
from handlers import artifact, cores, integrity
from serving.errors import NoRoom
from serving.instances import find_instance
from serving.plan_report import format_plan
from serving.planning import GIB, ModelNeed, device_room, plan_instance, resident_bytes
from tests.archives import write_members
from tests.forging import make_record

SIX = find_instance("inf1.6xlarge")  # 16 cores, 24 processors
SMALL = find_instance("inf1.xlarge")  # 4 cores, 4 processors, 8 GiB


def make_need(name: str = "a", **changes: object) -> ModelNeed:
    """A small model that takes one core for each worker."""
    values = {"target": "inf1", "cores_per_worker": 1, "device_bytes": GIB // 4, "parameters": 25_600_000}
    return ModelNeed(name=name, **{**values, "batch_sizes": (1, 8), **changes})  # type: ignore[arg-type]


def test_one_model_gets_every_core() -> None:
    """As many workers as cores, none left."""
    (only,) = plan_instance([make_need()], SIX).assignments
    assert only.workers == tuple((core,) for core in range(16))
    assert only.copies == 8


def test_wide_models_get_aligned_ranges_first() -> None:
    """A worker of four cores starts at a multiple of four; narrow ones fill what is left."""
    plan = plan_instance([make_need("narrow", workers=3), make_need("wide", cores_per_worker=4)], SIX)
    wide, narrow = plan.assignments  # in the order in which to start them
    assert wide.workers == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert narrow.workers == ((12,), (13,), (14,))
    assert plan.free == (15,)


def test_cores_are_those_that_leases_give_in_the_order_of_starting(tmp_path: Path) -> None:
    """Real leases, taken worker by worker, land where the plan says."""
    needs = [make_need("narrow", workers=3), make_need("pairs", cores_per_worker=2), make_need("rest")]
    plan = plan_instance(needs, SIX)
    for each in plan.assignments:
        for expected in each.workers:
            count = each.need.cores_per_worker
            lease = cores.take_lease(
                "plan", count, host_cores=range(SIX.cores), places=1, label=each.need.name, folder=tmp_path
            )
            assert lease.cores == expected
    assert len(cores.lease_holders(tmp_path)) == SIX.cores - len(plan.free)
    for lease in list(cores._leases):
        lease.release()


def test_models_that_ask_for_nothing_share_in_turn() -> None:
    """Three models on four cores: two, one and one."""
    plan = plan_instance([make_need(name) for name in "abc"], SMALL)
    assert [len(each.workers) for each in plan.assignments] == [2, 1, 1]


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (
            [make_need(workers=5)],
            "a 5 x 1 = 5 cores in contiguous, aligned ranges do not fit into the 4 of inf1.xlarge",
        ),
        ([make_need("a", cores_per_worker=2, workers=2), make_need("b")], r"a 2 x 2 \+ b 1 x 1 = 5 cores"),
        ([make_need(cores_per_worker=8)], "a worker of a takes 8 cores, inf1.xlarge has 4; lower pipeline_cores"),
        (
            [make_need(device_bytes=3 * GIB)],
            r"a takes 3.00 GiB on a core \(2 shapes of 25,600,000 weights\), inf1.xlarge has 2 GiB: compile fewer",
        ),
        ([make_need(), make_need("b"), make_need()], "a is named twice; name each model once"),
        ([make_need(target="inf2")], "a is for inf2, and inf1.xlarge runs inf1"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(needs: list[ModelNeed], message: str) -> None:
    """What was asked for, what there is, and what to do."""
    with pytest.raises(NoRoom, match=message):
        plan_instance(needs, SMALL)


def test_warns_of_processors_and_memory() -> None:
    """Contract 1.1: inf1.24xlarge has more processors than cores, trn1.2xlarge plenty; a small host may lack memory."""
    crowded = find_instance("inf1.24xlarge")
    assert plan_instance([make_need()], crowded).warnings == ()
    tight = SMALL.__class__(**{**SMALL.__dict__, "host_gib": 2, "vcpus": 2})
    first, second = plan_instance([make_need()], tight).warnings
    assert "4 workers share 2 vCPUs" in first
    assert "take about 3.8 of 2 GiB" in second


@pytest.mark.parametrize(
    ("modules", "parallel", "copies"), [(1, 1, 1), (4, 1, 4), (1, 2, 2), (2, 2, 3), (4, 2, 6), (4, 16, 5)]
)
def test_a_worker_on_several_cores_holds_extra_copies(modules: int, parallel: int, copies: int) -> None:
    """Contract 2.10: torch.jit.load puts a copy on a core already, and DataParallel adds one on each."""
    assert resident_bytes(10, modules, parallel) == 10 * copies


@pytest.mark.parametrize(("name", "taken"), [("inf1.xlarge", 0), ("inf2.xlarge", 96), ("trn1.32xlarge", 96)])
def test_microcode_takes_its_part_of_a_core(name: str, taken: int) -> None:
    """Contract 1.3: about 96 MB of device memory on each core of the second generation."""
    instance = find_instance(name)
    assert instance.device_gib_per_core * GIB - device_room(instance) == taken * 2**20


def test_hints_carry_their_source_and_stay_with_their_chip() -> None:
    """Contract 5.1: pipelines and the count of buckets are of inf1; the batch size is of both."""
    (first,) = plan_instance([make_need(operations=7.8e9)], SIX).assignments
    assert [hint.rpartition("(")[2] for hint in first.hints] == [
        "AWS docs: about-neuron/arch/neuron-features/neuroncore-pipeline.rst)",
        "AWS docs: archive/appnotes/torch-neuron/bucketing-app-note.rst)",
        "AWS docs: about-neuron/arch/neuron-features/neuroncore-batching.rst)",
    ]
    (second,) = plan_instance([make_need(target="inf2", operations=7.8e9)], find_instance("inf2.xlarge")).assignments
    assert len(second.hints) == 1


def test_the_table_is_for_people() -> None:
    """Cores as ranges, batch sizes and buckets, memory, where the figures are from, and what to type."""
    plan = plan_instance([make_need(cores_per_worker=4, buckets=('{"s": 64}',))], SIX)
    text = format_plan(plan, ["make serve MODEL=a"])
    assert "16 NeuronCores, 2 GiB of device memory for models on each, 24 vCPUs" in text
    assert "4 x 4 core(s), on 0-3, 4-7, 8-11, 12-15" in text
    assert 'batch 1, 8; buckets {"s": 64}' in text
    assert "256.0 of 2048 MiB on each core (estimate: weights only)" in text
    assert "8 would fit on a core" in text
    assert text.endswith("start, in this order:\n  make serve MODEL=a")


def test_the_command_estimates_what_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe without an archive, as JSON."""
    status = main(["plan", "tiny", "--instance", "inf2.xlarge", "--json", "--store", str(tmp_path)])
    plan = json.loads(capsys.readouterr().out)
    assert status == 0
    assert plan["assignments"][0]["need"]["origin"] == "estimate"
    assert plan["assignments"][0]["workers"] == [[0], [1]]
    assert plan["commands"] == ["make serve MODEL=tiny TARGET=inf2 WORKERS=2"]


def write_archive(folder: Path, *, target: str, batches: tuple[int, ...], **options: object) -> Path:
    """An archive of one file for all its batch sizes, as the kit compiles dynamic batches."""
    variant = make_record().variants[0]
    modules = tuple(dataclasses.replace(variant.modules[0], batch=batch) for batch in batches)
    variant = dataclasses.replace(variant, target=target, emulated=True, parameters=2**20, modules=modules)
    record = make_record(variants=(dataclasses.replace(variant, options=dict(options)),))
    return write_members({integrity.RECORD_NAME: artifact.dump_record(record)}, folder / "a model.mar")


def test_the_command_reads_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each batch size takes memory, though all share a file; what to type is quoted for the shell."""
    archive = write_archive(tmp_path, target="inf1", batches=(1, 2, 4), dynamic_batch=True)
    assert main(["plan", str(archive), "--instance", "inf1.xlarge", "--workers", "tiny=2"]) == 0
    said = capsys.readouterr().out
    assert "tiny for inf1 (archive, EMULATED, 1,048,576 weights of 2 bytes)" in said
    assert "6.0 of 2048 MiB on each core" in said
    assert f"make serve MODEL='{archive}' WORKERS=2" in said


def test_the_command_refuses_an_archive_for_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what it has, and what to do."""
    archive = write_archive(tmp_path, target="inf2", batches=(1,))
    assert main(["plan", str(archive), "--instance", "inf1.xlarge"]) == 1
    assert "tiny has no variant for inf1, only for inf2; build it with TARGET=inf1" in capsys.readouterr().err


def test_several_models_share_an_instance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second server gets a port of its own; counts may be given together, as make hands them over."""
    words = ["tiny", "cifar10", "--instance", "inf1.6xlarge", "--workers", "tiny=3, cifar10=5"]
    assert main(["plan", *words, "--store", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "make serve MODEL=tiny TARGET=inf1 WORKERS=3\n" in said
    assert "make serve MODEL=cifar10 TARGET=inf1 WORKERS=5 PORT=8180" in said
    assert "5 x 1 core(s), on 3-7" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny", "--instance", "inf9.xlarge"], "unknown instance type 'inf9.xlarge'; known are"),
        (["tiny", "--instance", "trn2.48xlarge"], "runs none of the kit's targets"),
        (["tiny", "--instance", "inf1.xlarge", "--workers", "tiny"], "expected MODEL=N"),
        (["tiny", "--instance", "inf1.xlarge", "--workers", "tiny=0"], "expected MODEL=N"),
        (["tiny", "--instance", "inf1.xlarge", "--target", "inf2"], "inf1.xlarge runs inf1, not inf2"),
        (["tiny", "--instance", "inf1.xlarge", "--workers", "other=1"], "names other, which is none of the models"),
        (["tiny", "--instance", "inf1.xlarge", "--workers", "tiny=9"], "tiny 9 x 1 = 9 cores"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """On standard error, with status 1."""
    assert main(["plan", *words, "--store", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
