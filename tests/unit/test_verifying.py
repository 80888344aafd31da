"""A compiled model that is not the eager one does not get past verification."""

import pytest
import torch

from tracing import Tolerances
from tracing.errors import VerificationError
from tracing.verifying import verify_model

ITEMS = [(torch.randn(6, generator=torch.Generator().manual_seed(n)),) for n in range(5)]
WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(99))


def eager(batch):
    return batch @ WEIGHT


def verify(compiled, *, model=eager, tolerances=None, sizes=(1, 4), items=ITEMS, names=("output",), activate=None):
    return verify_model(
        model,
        dict.fromkeys(sizes, compiled),
        items,
        names=names,
        tolerances=tolerances or Tolerances(),
        activate=activate or (lambda outputs: (torch.softmax(outputs[0], dim=1),)),
    )


def test_an_equal_model_passes_with_its_figures():
    """Each item twice in each batch size, the last batch filled up."""
    figures = verify(lambda batch: (eager(batch),))
    assert figures["compared"] == 2 * (5 + 8)
    assert figures["max_abs_error"] < 1e-5
    assert (figures["min_cosine"], figures["top1_agreement"]) == (1.0, 1.0)
    assert figures["max_probability_sum_error"] < 1e-6


def test_figures_have_two_digits():
    """So that builds on machines which round differently record the same."""
    figures = verify(lambda batch: (eager(batch) + 1.23456e-5,))
    assert figures["max_abs_error"] == 1.2e-5


def cross_talk(batch):
    return (eager(batch) + 0.01 * eager(batch).mean(dim=0),)


def forget_last(batch):
    out = eager(batch)
    return (torch.cat([out[:-1], out[:1]]) if len(out) > 1 else out,)


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        (lambda b: (eager(b) + 0.01,), r"output in a batch of 1: -?[\d.]+ where the eager model gives -?[\d.]+"),
        (lambda b: (eager(b) * 1.01,), r"\(at most [\d.e-]+ apart\)"),
        (lambda b: (-eager(b),), "top-1 agreement is 0.0000, at least 1.0 is asked for; cosine is -1.000000"),
        (lambda b: (eager(b).roll(1, 0),), "output in a batch of 4"),
        (cross_talk, "Largest error"),
        (forget_last, "in a batch of 4"),
        (lambda b: (eager(b) * float("nan"),), "output in a batch of 1 holds NaN or infinity, the eager model's does"),
        (lambda b: (eager(b)[:, :3],), r"has shape \[1, 3\], the eager model's \[1, 4\]"),
        (lambda b: (torch.zeros(len(b), 4),), "cosine is 0.000000"),
    ],
)
def test_a_wrong_model_is_refused_with_figures(compiled, message):
    """Wrong numbers, wrong order, other shapes, NaN, or neighbours that leak."""
    with pytest.raises(VerificationError, match="the compiled model does not give the eager model's numbers") as caught:
        verify(compiled)
    assert caught.match(message)
    assert caught.match(r"Largest error [\d.e+-]+ absolute, [\d.e+-]+ relative")


@pytest.mark.parametrize(
    ("tolerances", "message"),
    [
        (Tolerances(absolute=1), None),
        (Tolerances(absolute=1e-6, relative=0.5), None),
        (Tolerances(absolute=1, cosine=1.0), "cosine is 0.99"),
        (Tolerances(absolute=1e-3, relative=0), "Largest error 0.0123"),
    ],
)
def test_the_recipe_says_how_far_is_too_far(tolerances, message):
    """Each tolerance works by itself."""

    def compiled(batch):
        return (eager(batch) + torch.tensor([0.0123, 0.0, 0.0, 0.0]),)

    if message is None:
        assert verify(compiled, tolerances=tolerances)["max_abs_error"] == 0.012
        return
    with pytest.raises(VerificationError, match=message):
        verify(compiled, tolerances=tolerances)


def test_a_share_of_changed_rankings_may_be_allowed():
    """bf16 may exchange near equals: top1 says for how many items."""
    flipped = torch.stack([item[0] for item in ITEMS[:1]])

    def compiled(batch):
        out = eager(batch)
        hit = (batch == flipped).all(dim=1)
        return (torch.where(hit[:, None], out.flip(1), out),)

    with pytest.raises(VerificationError, match=r"top-1 agreement is 0\.\d+, at least 1.0"):
        verify(compiled, tolerances=Tolerances(absolute=100, cosine=0), sizes=[1])
    assert verify(compiled, tolerances=Tolerances(absolute=100, cosine=0, top1=0.7), sizes=[1])["top1_agreement"] == 0.8


@pytest.mark.parametrize(
    "model",
    [
        lambda b: eager(b - b.mean(dim=0)),
        lambda b: torch.softmax(eager(b), dim=0),
        lambda b: eager(b).cumsum(dim=0),
        lambda b: eager(b) / eager(b).abs().max(),
    ],
    ids=["mean", "softmax", "cumsum", "max"],
)
def test_a_model_that_leaks_across_the_batch_is_refused(model):
    """One client's answer would depend on another's request, though compiled and eager agree."""
    with pytest.raises(VerificationError, match="the model mixes the items of a batch: item"):
        verify(lambda batch: (model(batch),), model=model)


def test_several_inputs_and_outputs_are_compared_each():
    """The message names the output that is off."""
    items = [(item[0], torch.tensor(float(n))) for n, item in enumerate(ITEMS)]

    def model(batch, shift):
        return {"plain": eager(batch), "shifted": eager(batch) + shift[:, None]}

    def compiled(batch, shift):
        return eager(batch), eager(batch) + 2 * shift[:, None]

    with pytest.raises(VerificationError, match="shifted in a batch of 1: ") as caught:
        verify(compiled, model=model, items=items, names=("plain", "shifted"))
    assert "plain in" not in str(caught.value)


def test_a_lone_item_fills_every_batch():
    """One golden request is enough to verify a batch of four."""
    assert verify(lambda batch: (eager(batch),), items=ITEMS[:1])["compared"] == 2 * (1 + 4)


def test_a_single_number_is_compared_without_a_ranking():
    """A regression has no top label."""

    def model(batch):
        return batch.sum(dim=1)

    assert verify(lambda batch: (model(batch),), model=model, activate=lambda x: x)["top1_agreement"] == 1.0
