"""Small networks, and a fresh interpreter with the emulator on its path, for the emulator's tests."""

import os
import subprocess
import sys
from pathlib import Path

import torch

EMULATOR = Path(__file__).resolve().parents[2] / "emulator"


class Convolution(torch.nn.Module):
    """A convolution and what usually follows it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.eval().requires_grad_(False)

    def forward(self, x):
        return torch.relu(self.conv(x)) + 1


class Embedding(torch.nn.Module):
    """Tokens, and two layers over them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(10, 8)
        self.first, self.second = torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)
        self.eval().requires_grad_(False)

    def forward(self, ids):
        return self.second(torch.relu(self.first(self.words(ids))))


class Branching(torch.nn.Module):
    """Layers before and after an operator that no list has."""

    def __init__(self, before: int = 2, after: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(before)))
        self.after = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(after)))
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.after(torch.erfinv(torch.tanh(self.before(x)) * 0.5))


class Packed(torch.nn.Module):
    """An LSTM over packed sequences, unpacked inside of the model or not."""

    def __init__(self, *, unpack: bool) -> None:
        super().__init__()
        self.unpack = unpack
        self.lstm = torch.nn.LSTM(3, 7)
        self.eval().requires_grad_(False)

    def forward(self, inputs, lengths):
        packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=True)
        result, (hidden, cell) = self.lstm(packed)
        if self.unpack:
            return torch.nn.utils.rnn.pad_packed_sequence(result)[0], hidden, cell
        return result.data, hidden, cell


def run_python(code: str, *, emulator: bool = True, instance: str = "inf1.xlarge", **variables: str):
    """Run code in a fresh interpreter; its output and status are returned, whatever they are."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NEURON_RT_", "PYTHON"))}
    environment.update(variables, NEURON_EMULATOR_INSTANCE=instance)
    if not instance:
        del environment["NEURON_EMULATOR_INSTANCE"]
    if emulator:
        environment["PYTHONPATH"] = str(EMULATOR)
    words = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
