"""The build half's branches of ``handlers.errors.KitError``.

KitError
├── RecipeError             the recipe cannot be read or has faults; all of them are listed
├── LengthsError            a sample of lengths cannot be read, or buckets cannot be planned from it
└── BuildError              a step of the build failed
    ├── PreflightError      the model would not compile, or would compile wrong
    ├── CompileError        the compiler refused the model
    ├── VerificationError   the compiled model does not give the eager model's numbers
    ├── PackingError        the archive cannot be written
    └── CheckError          an archive is not fit to be served
"""

from collections.abc import Sequence

from handlers.errors import KitError


class RecipeError(KitError):
    """The recipe cannot be read or has faults."""

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        super().__init__(f"{where}: " + (faults[0] if len(faults) == 1 else _list_faults(faults)))
        self.faults = tuple(faults)


class LengthsError(KitError):
    """A sample of lengths cannot be read, or buckets cannot be planned from it."""


class BuildError(KitError):
    """A step of the build failed."""


class PreflightError(BuildError):
    """The model would not compile, or would compile wrong."""


class CompileError(BuildError):
    """The compiler refused the model."""


class VerificationError(BuildError):
    """The compiled model does not give the eager model's numbers."""


class PackingError(BuildError):
    """The archive cannot be written."""


class CheckError(BuildError):
    """An archive is not fit to be served."""


def _list_faults(faults: Sequence[str]) -> str:
    return f"{len(faults)} faults" + "".join(f"\n  - {fault}" for fault in faults)
