"""Several small networks side by side, whose mean is the answer."""

import math

import torch
from torch import nn


class Layer(nn.Module):
    """One linear layer for each network: (networks, rows, inputs) -> (networks, rows, outputs)."""

    def __init__(self, networks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # as torch.nn.Linear begins
        self.weight = nn.Parameter(torch.empty(networks, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(networks, 1, outputs).uniform_(-bound, bound))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.matmul(values, self.weight) + self.bias


class Ensemble(nn.Module):
    """Perceptrons with two hidden layers: (rows, inputs) -> (rows, 1), the logarithm of the price, standardised."""

    def __init__(self, networks: int, inputs: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = Layer(networks, inputs, hidden)
        self.second = Layer(networks, hidden, hidden)
        self.last = Layer(networks, hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def each(self, values: torch.Tensor) -> torch.Tensor:
        """Return every network's own output (networks, rows, 1); all see the same rows, or (networks, rows, inputs)."""
        hidden = self.dropout(torch.relu(self.first(values)))
        hidden = self.dropout(torch.relu(self.second(hidden)))
        return self.last(hidden)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.each(values.unsqueeze(0)).mean(dim=0)
