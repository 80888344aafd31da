"""AWS's rules of thumb: the figures that its pages work out themselves, and the edges."""

import pytest

from serving.rules import suggest_batch, suggest_buckets, suggest_pipeline


@pytest.mark.parametrize(
    ("parameters", "cores"), [(9, 1), (9_000_000, 1), (25_600_000, 4), (108_000_000, 20), (340_000_000, 68)]
)
def test_pipeline_cores(parameters: int, cores: int) -> None:
    """Contract 5.1: 4 * round(weights / 2e7); a model too small for a pipeline takes one core."""
    assert suggest_pipeline(parameters) == cores


@pytest.mark.parametrize(("parameters", "buckets"), [(25_600_000, 39), (108_000_000, 9), (3_000_000_000, 0)])
def test_shapes_on_a_core(parameters: int, buckets: int) -> None:
    """Contract 5.1: round(1e9 / weights)."""
    assert suggest_buckets(parameters) == buckets


@pytest.mark.parametrize(
    ("parameters", "operations", "batch"), [(302_000_000, 77.3e9, 6), (25_000_000, 7.8e9, 5)], ids=["bert", "resnet"]
)
def test_batch_size_of_the_published_examples(parameters: int, operations: float, batch: int) -> None:
    """Contract 5.1: BERT-Large 6 and ResNet-50 5 on inf1, from the operations and weights of AWS's own table."""
    assert suggest_batch("inf1", parameters=parameters, weight_bytes=2, operations=operations) == batch


def test_batch_size_grows_with_the_weights() -> None:
    """Twice the bytes to read for the same work: about twice the batch hides them."""
    narrow, wide = (suggest_batch("inf2", parameters=302_000_000, weight_bytes=size, operations=9e9) for size in (2, 4))
    assert (narrow, wide) == (8, 16)


def test_a_model_without_weights_gets_batch_one() -> None:
    """A function has operations and no weights."""
    assert suggest_batch("inf1", parameters=0, weight_bytes=2, operations=1e9) == 1
