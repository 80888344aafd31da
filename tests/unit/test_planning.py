"""What fits on an instance: cores dealt out, refusals with their arithmetic, and AWS's rules of thumb."""

import json
from pathlib import Path

import pytest

from cli.main import main
from serving.errors import NoRoom
from serving.instances import find_instance
from serving.planning import (
    GIB,
    ModelNeed,
    as_table,
    buckets_per_core,
    pipeline_cores,
    plan_instance,
    recommended_batch,
)

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
    narrow, wide = plan.assignments
    assert wide.workers == ((0, 1, 2, 3), (8, 9, 10, 11), (12, 13, 14, 15))
    assert narrow.workers == ((4,), (5,), (6,))
    assert plan.free == (7,)


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
        ([make_need(device_bytes=3 * GIB)], "a takes 3.00 GiB on a core, inf1.xlarge has 2 GiB: compile fewer batch"),
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
    assert "take about 2.8 of 2 GiB" in second


@pytest.mark.parametrize(
    ("parameters", "cores", "buckets"), [(25_600_000, 4, 39), (108_000_000, 20, 9), (1_000_000, 0, 1000)]
)
def test_rules_of_thumb(parameters: int, cores: int, buckets: int) -> None:
    """Contract 5.1: 4 * round(weights / 2e7), round(1e9 / weights)."""
    assert (pipeline_cores(parameters), buckets_per_core(parameters)) == (cores, buckets)


def test_the_rule_for_the_batch_size() -> None:
    """Contract 5.1: BERT-Large 6 and ResNet-50 5 on inf1, within one (AWS does not give the operations it counted)."""
    assert abs(recommended_batch("inf1", 25_600_000, 7.2e9) - 5) <= 1
    assert abs(recommended_batch("inf1", 340_000_000, 70e9) - 6) <= 1


def test_the_table_is_for_people() -> None:
    """Cores as ranges, batch sizes and buckets, memory, and where the figures are from."""
    text = as_table(plan_instance([make_need(cores_per_worker=4, buckets=('{"s": 64}',))], SIX))
    assert "16 NeuronCores of 2 GiB, 24 vCPUs" in text
    assert "4 x 4 core(s), on 0-3, 4-7, 8-11, 12-15" in text
    assert 'batch sizes  1, 8; buckets {"s": 64}' in text
    assert "0.250 of 2 GiB on each core (estimate: weights); 8 copies would fit" in text


def test_the_command_estimates_what_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe without an archive, as JSON."""
    status = main(["plan", "tiny", "--instance", "inf2.xlarge", "--json", "--store", str(tmp_path)])
    plan = json.loads(capsys.readouterr().out)
    assert status == 0
    assert plan["assignments"][0]["need"]["origin"] == "estimate"
    assert plan["assignments"][0]["workers"] == [[0], [1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny", "--instance", "inf9.xlarge"], "unknown instance type 'inf9.xlarge'; known are"),
        (["tiny", "--instance", "trn2.48xlarge"], "runs none of the kit's targets"),
        (["tiny", "--instance", "inf1.xlarge", "--workers", "tiny"], "expected MODEL=N"),
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
