"""BERT in plain torch: what it takes from a folder, and that its numbers depend on the text alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from handlers.targets import cpu
from tracing.compiling import canonical_bytes
from tracing.networks.bert import SentenceEncoder, build_classifier, build_sentence_encoder, make_random
from tracing.networks.bert_config import BertConfig

TINY = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "id2label": {"0": "no", "1": "yes", "2": "maybe"},
}
CONFIG = BertConfig(**{k: v for k, v in TINY.items() if k in BertConfig.__dataclass_fields__}, labels=("a", "b", "c"))


def write_folder(folder: Path, *, prefix="bert.", changes=None, drop=(), **config) -> Path:
    """Write a Hugging Face folder of a tiny random classifier."""
    state = make_random(CONFIG).state_dict()
    named = {name if name.startswith("classifier") else prefix + name: value for name, value in state.items()}
    named = {**{name: value for name, value in named.items() if name not in drop}, **(changes or {})}
    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in named.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**TINY, **config}))
    return folder


def make_inputs(batch, length, seed=0):
    """Random tokens without padding."""
    ids = torch.randint(1, 50, (batch, length), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_folder_is_loaded_with_either_form_of_names(tmp_path, prefix):
    """BertForSequenceClassification writes "bert." before the encoder's names, BertModel none."""
    network = build_classifier(write_folder(tmp_path, prefix=prefix), positions=40)
    ids, mask = make_inputs(2, 7)
    expected = make_random(CONFIG)(ids, mask, torch.zeros_like(ids))
    assert torch.equal(network(ids, mask, torch.zeros_like(ids)), expected)


def test_a_pickled_folder_is_loaded(tmp_path):
    """pytorch_model.bin, with the old names of normalisation and the old position numbers."""
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): v for name, v in make_random(CONFIG).state_dict().items()
    }
    torch.save({**state, "embeddings.position_ids": torch.arange(40)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert build_classifier(tmp_path, positions=40).classifier.out_features == 3


def test_a_sentence_encoder_ignores_the_heads(tmp_path):
    """Pooler and language model are for training; the classifier is none of the encoder's."""
    head = {"cls.predictions.bias": torch.zeros(50)}
    folder = write_folder(tmp_path, changes=head, drop=("classifier.weight", "classifier.bias"))
    assert isinstance(build_sentence_encoder(folder, positions=40), SentenceEncoder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', expected 'bert'"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish', expected one of gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_attention_heads": 5}, "which 5 heads do not divide"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"max_position_embeddings": 16}, "compiles for 40 positions"),
        ({"vocab_size": 51}, r"word_embeddings.weight \[50, 32\] for \[51, 32\]"),
        ({"num_hidden_layers": 3}, "missing: encoder.layer.2"),
        ({"num_hidden_layers": 1}, "unexpected: encoder.layer.1"),
    ],
)
def test_a_folder_that_does_not_fit(tmp_path, config, reason):
    """It is refused with what was found."""
    with pytest.raises(ValueError, match=reason):
        build_classifier(write_folder(tmp_path, **config), positions=40)


def test_a_folder_without_a_configuration(tmp_path):
    """It is named."""
    with pytest.raises(ValueError, match=r"there is no config\.json"):
        build_classifier(tmp_path, positions=8)


@pytest.mark.parametrize("bf16", [False, True])
def test_padding_changes_nothing(bf16):
    """Whatever tokens the padding holds; in bf16 too, where -inf would do harm."""
    torch.manual_seed(0)
    encoder = SentenceEncoder(CONFIG).eval()
    encoder = encoder.bfloat16() if bf16 else encoder
    ids, mask = make_inputs(3, 9)
    padded = torch.cat([ids, torch.full((3, 6), 7)], dim=1)
    marked = torch.cat([mask, torch.zeros(3, 6, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        alone, together = encoder(ids, mask).float(), encoder(padded, marked).float()
    assert torch.allclose(alone, together, atol=0.02 if bf16 else 1e-6)


def test_an_embedding_has_length_one():
    """An empty mask gives finite numbers too, though no request has one."""
    torch.manual_seed(0)
    ids, mask = make_inputs(2, 5)
    mask[1] = 0
    with torch.no_grad():
        vectors = SentenceEncoder(CONFIG).eval()(ids, mask)
    assert vectors[0].norm().item() == pytest.approx(1, abs=1e-6)
    assert torch.isfinite(vectors).all()


def test_segments_tell_the_texts_of_a_pair_apart():
    """Without them all is the first text."""
    network = make_random(CONFIG)
    ids, mask = make_inputs(1, 6)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert torch.equal(network(ids, mask), network(ids, mask, torch.zeros_like(ids)))
    assert not torch.equal(network(ids, mask), network(ids, mask, segments))


def test_all_shapes_have_one_trace():
    """Sizes come from the inputs, so that an archive for cpu holds the weights once."""
    torch.manual_seed(0)
    encoder = SentenceEncoder(CONFIG).eval()
    files = {canonical_bytes(cpu.compile(encoder, make_inputs(*shape), {})) for shape in [(1, 8), (4, 16), (2, 40)]}
    assert len(files) == 1


def test_the_random_one_is_the_same_each_time_and_disturbs_no_one():
    """Its seed is its own."""
    before = torch.random.get_rng_state()
    one, other = make_random(CONFIG), make_random(CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
