"""``DataParallel`` of both frameworks: copies of a model on several cores, and batches spread over them.

AWS docs: archive/torch-neuron/api-torch-neuron-dataparallel-api.rst, api-torch-neuronx-data-parallel.rst.
"""

import math
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils import _pytree as pytree

from neuron_emulator.modules import DYNAMIC_BATCH, copy_to_core, find_subgraphs
from neuron_emulator.placement import open_runtime


class DataParallel(torch.nn.Module):
    """A compiled TorchScript module, copied to ``device_ids``, that splits its inputs along ``dim``.

    ``device_ids`` are cores of this process, as 1 or "nc:1"; all by default. ``num_workers`` (threads) and
    ``split_size`` (rows of a part; None: an equal share of the batch) may be set afterwards. Raises ``RuntimeError``
    without a runtime or for a model without compiled graphs, ``ValueError`` for cores that the process has not.
    """

    def __init__(
        self,
        model: torch.jit.ScriptModule,
        device_ids: Sequence[int | str] | None = None,
        dim: int = 0,
        set_dynamic_batching: bool = True,
    ) -> None:
        super().__init__()
        available = len(open_runtime().cores)
        if not find_subgraphs(model):
            raise RuntimeError("DataParallel takes a module that was traced for Neuron; found no compiled graph in it")
        self.device_ids = _read_ids(device_ids, available)
        self.dim = dim
        self.num_workers = 2 * len(self.device_ids)
        self.split_size: int | None = None
        self.dynamic_batching = False
        _unload(model)
        self._copies = [copy_to_core(model, each) for each in self.device_ids]
        if set_dynamic_batching:
            self._enable_dynamic_batching()

    def disable_dynamic_batching(self) -> None:
        """Take only batches whose parts have the compiled size."""
        self._switch_dynamic_batching(False)

    def forward(self, *inputs: Any) -> Any:
        """Return the model's outputs for the whole batch, parts concatenated along ``dim`` in their order."""
        parts = self._split(inputs)
        with ThreadPoolExecutor(max_workers=max(1, int(self.num_workers))) as pool:
            outputs = list(pool.map(self._run, range(len(parts)), parts))
        flat = [pytree.tree_flatten(each) for each in outputs]
        columns = zip(*(leaves for leaves, _ in flat), strict=True)
        return pytree.tree_unflatten([torch.cat(column, dim=self.dim) for column in columns], flat[0][1])

    def _run(self, number: int, part: tuple[Any, ...]) -> Any:
        place = number % len(self._copies)
        try:
            return self._copies[place](*part)
        except Exception as exc:
            text = f"Caught {type(exc).__name__} on neuroncore {self.device_ids[place]}.\nOriginal "
            raise RuntimeError(text + traceback.format_exc()) from exc

    def _split(self, inputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        leaves, spec = pytree.tree_flatten(inputs)
        tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
        rows = tensors[0].shape[self.dim]
        if any(each.shape[self.dim] != rows for each in tensors):
            sizes = ", ".join(str(each.shape[self.dim]) for each in tensors)
            raise RuntimeError(f"the inputs differ in dimension {self.dim} ({sizes}), along which they are to be split")
        size = self.split_size or max(1, rows // len(self.device_ids))
        count = max(1, math.ceil(rows / size))
        columns = [
            torch.split(each, size, dim=self.dim) if isinstance(each, torch.Tensor) else [each] * count
            for each in leaves
        ]
        return [tuple(pytree.tree_unflatten([column[n] for column in columns], spec)) for n in range(count)]

    def _enable_dynamic_batching(self) -> None:
        if self.dim != 0:
            warnings.warn(
                f"dynamic batching is off: it works along dimension 0, and dim={self.dim} was given", stacklevel=3
            )
        elif not self._is_eligible():
            warnings.warn(
                "dynamic batching is off: the model's inputs and outputs do not share their first dimension",
                stacklevel=3,
            )
        else:
            self._switch_dynamic_batching(True)

    def _is_eligible(self) -> bool:
        for subgraph in find_subgraphs(self._copies[0]):
            shapes = [shape for _, shape in (*subgraph.header.inputs, *subgraph.header.outputs)]
            if len({shape[0] if shape else None for shape in shapes}) != 1 or shapes[0] == ():
                return False
        return True

    def _switch_dynamic_batching(self, value: bool) -> None:
        self.dynamic_batching = value
        for copy in self._copies:
            for subgraph in find_subgraphs(copy):
                subgraph.set_flag(DYNAMIC_BATCH, value)


def _unload(model: torch.jit.ScriptModule) -> None:
    """Take a model of torch-neuronx off its cores, as its page says; torch-neuron's copy stays.

    AWS docs: api-torch-neuronx-async-lazy-load.rst.
    """
    for subgraph in find_subgraphs(model):
        if subgraph.header.family == "inf2":
            subgraph.unload()


def _read_ids(device_ids: Sequence[int | str] | None, available: int) -> list[int]:
    if device_ids is None:
        return list(range(available))
    texts = [str(each).removeprefix("nc:") for each in device_ids]
    numbers = [int(text) for text in texts if text.isdecimal() and int(text) < available]
    if len(numbers) < len(texts) or not numbers:
        raise ValueError(
            f"device_ids are {list(device_ids)}, expected cores of this process: 0 to {available - 1}, or 'nc:0'"
        )
    return numbers
