"""BERT encoders (Devlin et al. 2018, arXiv 1810.04805), in plain torch, from a folder as model hubs give it.

Names and shapes of the weights are those of Hugging Face's ``BertModel`` and ``BertForSequenceClassification``. Sizes
are taken from the inputs when a graph runs, so that the traces of all shapes are the same graph, which an archive for
``cpu`` holds once.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tracing.networks.bert_config import BertConfig, read_config
from tracing.networks.checkpoints import load_weights, read_weights

# Added to the scores of what is masked. exp(-1e4) is 0 in every float format; -inf, or the least float, overflows to
# NaN in a chip's reduced formats once anything is added to it.
_MASKED = -1e4
_LEAST_SQUARE = 1e-24  # of an embedding's length: sentence-transformers' normalisation never divides by less than 1e-12
# Weights for training that an encoder has no use for: of BertForPreTraining, BertForMaskedLM, old position numbers.
_UNUSED = ("cls.", "embeddings.position_ids")
_POOLER = "pooler."
# TensorFlow's names of a normalisation's weights, which old checkpoints have.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": lambda: nn.GELU(approximate="tanh"),
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
}


class _Embeddings(nn.Module):
    """Words, positions and segments."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: torch.Tensor, segments: torch.Tensor | None) -> torch.Tensor:
        positions = self.position_embeddings.weight[: ids.size(1)]
        types = self.token_type_embeddings
        # Without segments, all of a text is in the first.
        typed = types.weight[0] if segments is None else types(segments)
        out: torch.Tensor = self.LayerNorm(self.word_embeddings(ids) + positions + typed)
        return out


class _SelfAttention(nn.Module):
    """Scaled dot products of each position with all others, for each head (section 3.2 of arXiv 1706.03762)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.width = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(2, 3)) * self.width**-0.5
        mixed = torch.matmul(torch.softmax(scores + mask, dim=-1), value)
        return mixed.transpose(1, 2).reshape(x.size(0), x.size(1), self.heads * self.width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, sequence, hidden) as (N, heads, sequence, width)."""
        return x.reshape(x.size(0), x.size(1), self.heads, self.width).transpose(1, 2)


class _Residual(nn.Module):
    """A linear layer, its result added to a shortcut, normalised after it."""

    def __init__(self, config: BertConfig, inside: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inside, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.LayerNorm(self.dense(x) + shortcut)
        return out


class _Layer(nn.Module):
    """Attention, then two linear layers with an activation between them."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": _SelfAttention(config), "output": _Residual(config, config.hidden_size)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.activation = _ACTIVATIONS[config.hidden_act]()
        self.output = _Residual(config, config.intermediate_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        out: torch.Tensor = self.output(self.activation(self.intermediate["dense"](x)), x)
        return out


class BertEncoder(nn.Module):
    """A vector for each position of a text.

    Takes token ids and an attention mask (1 where there is a token, 0 where there is padding), both int64 of shape
    (N, sequence), and optionally segments (0 for the first text of a pair, 1 for the second). Returns float32 of shape
    (N, sequence, hidden). New weights are random.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        if config.hidden_act not in _ACTIVATIONS:
            raise ValueError(
                f"config.json: hidden_act is {config.hidden_act!r}, expected one of {', '.join(_ACTIVATIONS)}"
            )
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        x: torch.Tensor = self.embeddings(ids, segments)
        added = (1.0 - mask.to(x.dtype)).unsqueeze(1).unsqueeze(2) * _MASKED
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, added)
        return x


class SentenceEncoder(BertEncoder):
    """One vector of length 1 for a text: the mean over its tokens, as sentence-transformers' models have it.

    Takes token ids and attention mask, int64 of shape (N, sequence); returns float32 of shape (N, hidden).
    """

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        states = super().forward(ids, mask, segments)
        weights = mask.to(states.dtype).unsqueeze(2)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return mean / torch.sqrt((mean * mean).sum(dim=1, keepdim=True).clamp(min=_LEAST_SQUARE))


class SequenceClassifier(BertEncoder):
    """A score for each label of a text or a pair of texts.

    Takes token ids, attention mask and segments, int64 of shape (N, sequence); returns logits, float32 (N, labels).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})
        self.classifier = nn.Linear(config.hidden_size, len(config.labels))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        first = super().forward(ids, mask, segments)[:, 0]
        logits: torch.Tensor = self.classifier(torch.tanh(self.pooler["dense"](first)))
        return logits


def build_sentence_encoder(folder: Path, *, positions: int) -> SentenceEncoder:
    """Return the encoder in a Hugging Face folder, for texts of up to ``positions`` tokens.

    Raises ``ValueError`` that says how the folder differs from what is expected.
    """
    config = read_config(folder, positions=positions)
    network = SentenceEncoder(config)
    load_weights(network, _read_named(folder, unused=(*_UNUSED, _POOLER)))
    return network.eval()


def build_classifier(folder: Path | None, *, positions: int) -> SequenceClassifier:
    """Return the classifier in a Hugging Face folder, for up to ``positions`` tokens; None: a random one.

    The random one has the shape of BERT-base and two labels, and is the same each time. Raises ``ValueError`` that says
    how the folder differs from what is expected.
    """
    if folder is None:
        return make_random(BertConfig())
    network = SequenceClassifier(read_config(folder, positions=positions))
    load_weights(network, _read_named(folder, unused=_UNUSED))
    return network.eval()


def make_random(config: BertConfig) -> SequenceClassifier:
    """Return a classifier with random weights, the same each time: normal, of standard deviation 0.02 as in BERT."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SequenceClassifier(config)
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
    return network.eval()


def _read_named(folder: Path, *, unused: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return a folder's weights under the names of this network, without what it has no use for."""
    weights = {}
    for name, value in read_weights(folder).items():
        own = name.removeprefix("bert.")
        for old, new in _OLD_NAMES.items():
            own = own.replace(old, new)
        if not own.startswith(unused):
            weights[own] = value
    return weights
