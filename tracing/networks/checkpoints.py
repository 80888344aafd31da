"""Weights in the files that people have: torch's and safetensors', bare or wrapped as training scripts save them."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Under which a training script puts weights beside its optimiser's state; averaged ones, which score better, first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Of names: DataParallel's and AveragedModel's, torch.compile's, Lightning's or any wrapper's own.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# In a folder as model hubs give it; the first that is there.
_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_SHOWN = 3  # faults of each kind that a message names


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return name -> float32 (or integer) tensor of a checkpoint; what a training script wrapped around it is removed.

    ``path`` is a ``.safetensors`` file, one of ``torch.save``, or a folder with one of these. Nothing in a file is run.
    Raises ``ValueError`` that says what was found instead of weights.
    """
    file = _find_file(path) if path.is_dir() else path
    state = _unwrap(_read_file(file))
    tensors = state.items() if isinstance(state, Mapping) else ()
    weights = {name: value for name, value in tensors if isinstance(value, torch.Tensor)}
    if not weights:
        raise ValueError(f"{file}: found {_describe(state)}, expected a state_dict: names with tensors")
    weights = _strip_prefixes(weights)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load ``weights`` into ``network``; raise ``ValueError`` that names what is missing, unexpected or misshapen.

    Counters of batch normalisation may be missing, because only training uses them.
    """
    own = network.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    misshapen = [
        f"{name} {list(weights[name].shape)} for {list(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    faults = [
        _list_some("missing", [name for name in own if name not in weights and name not in counters]),
        _list_some("unexpected", [name for name in weights if name not in own]),
        _list_some("of another shape", misshapen),
    ]
    found = [fault for fault in faults if fault]
    if found:
        raise ValueError(f"the checkpoint does not fit {type(network).__name__}: {'; '.join(found)}")
    network.load_state_dict({**own, **weights})


def _find_file(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{folder}: expected {' or '.join(_FILES)}, or one file with weights, found {names}; name one")
    return found[0]


def _read_file(file: Path) -> Any:  # Any: whatever was saved
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as exc:
            raise ValueError(f"{file} is no safetensors file: {exc}") from exc
    try:
        # A namespace is plain data, in which reference scripts keep their arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as exc:
        reason = str(exc).partition("\n")[0]
        raise ValueError(
            f"{file} cannot be read as weights ({reason}); expected tensors only, as "
            "torch.save(model.state_dict(), file) writes them"
        ) from exc


def _unwrap(content: Any) -> Any:
    """Return the innermost of the mappings that a training script has saved in one another; Any: whatever it saved."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _strip_prefixes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights without a prefix that all of them have; the averaging's own counter is dropped."""
    weights = {name: value for name, value in weights.items() if name != "n_averaged"}
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _list_some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"a {type(content).__name__}"
