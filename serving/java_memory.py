"""What Java programs said of themselves, kept, because asking one costs a tenth of a second at each start."""

import contextlib
import json
import os
from pathlib import Path

from serving.errors import ServerError
from serving.runs import base_folder

_ELF = b"\x7fELF"  # how a program of the machine begins; a script, such as a version manager's, may mean another Java
_MOST = 20  # programs that are remembered


def recall(command: Path) -> tuple[Path, int] | None:
    """Return the home and the version that this very program named; None if it has changed or was never asked."""
    known = _read().get(str(command))
    if not isinstance(known, dict) or known.get("program") != _identify(command):
        return None
    try:
        return Path(known["home"]), int(known["version"])
    except (KeyError, TypeError, ValueError):
        return None


def remember(command: Path, home: Path, version: int) -> None:
    """Keep what a program said; one that cannot be told from another by its file is asked each time."""
    program = _identify(command)
    if program is None:
        return
    kept = dict(list(_read().items())[-_MOST + 1 :])
    kept[str(command)] = {"program": program, "home": str(home), "version": version}
    with contextlib.suppress(OSError, ServerError):
        file = base_folder() / "java.json"
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(kept, indent=1))
        unfinished.replace(file)


def _read() -> dict[str, object]:
    try:
        content = json.loads((base_folder() / "java.json").read_text())
    except (OSError, ServerError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _identify(command: Path) -> str | None:
    """Return what tells a program from the one that lay there before; None for a script and for what is not there."""
    try:
        real = command.resolve(strict=True)
        with real.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                return None
        # The JVM itself lies in another file, which an update replaces as well.
        files = [real, *sorted(real.parent.parent.glob("lib/server/libjvm.so"))]
        stats = [(path, path.stat()) for path in files]
    except OSError:
        return None
    return " ".join(f"{path}:{found.st_size}:{found.st_mtime_ns}" for path, found in stats)
