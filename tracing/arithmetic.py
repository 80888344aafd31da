"""The chip's arithmetic for the build half: the emulator's own file, found without putting frameworks on the path."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tracing.errors import BuildError

_PACKAGE = "neuron_emulator"
_FOLDER = Path(__file__).resolve().parent.parent / "emulator" / _PACKAGE


def load_arithmetic() -> ModuleType:
    """Return the module ``neuron_emulator.arithmetic``: installed, or from the folder beside this package.

    Only the package itself is made known: ``torch_neuron`` and ``torch_neuronx`` cannot be imported because of it.
    Raises ``BuildError`` if it is nowhere.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        _import_from(_FOLDER)
    return importlib.import_module(f"{_PACKAGE}.arithmetic")


@contextmanager
def computing_as_chip(model: torch.nn.Module, arithmetic: Any, keep_on_cpu: Sequence[str] = ()) -> Iterator[Any]:
    """Compute as a chip inside a ``with``, but for the submodules ``keep_on_cpu`` of ``model``; gives the mode.

    ``arithmetic`` is an ``Arithmetic`` of the emulator; Any, because that is not always on mypy's path.
    """
    mode = load_arithmetic().ChipMode(arithmetic)
    with ExitStack() as stack:
        # Whole encoder layers in one operator would hide the steps that the chip rounds.
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for name in keep_on_cpu:
            module = model.get_submodule(name)
            before = module.register_forward_pre_hook(lambda *_: mode.leave())
            after = module.register_forward_hook(lambda *_: mode.resume(), always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(torch.no_grad())
        yield stack.enter_context(mode)


def _import_from(folder: Path) -> None:
    file = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(_PACKAGE, file, submodule_search_locations=[str(folder)])
    if not file.is_file() or spec is None or spec.loader is None:
        raise BuildError(
            f"the chip's arithmetic is part of the emulator, which is neither installed nor in {folder.parent}; "
            "build from a checkout, or install the folder emulator/ of one with pip"
        )
    package = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = package
    spec.loader.exec_module(package)
