"""What a client accepts, and answers that are no JSON."""

import functools
import io
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from handlers.errors import BadRequest, NotAcceptable
from handlers.payloads import Encoded

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"


@functools.lru_cache(maxsize=256)  # clients send few headers, each thousands of times
def choose_type(accept: Optional[str], offered: Tuple[str, ...]) -> Tuple[str, Mapping[str, str]]:
    """Return which of the ``offered`` types an ``Accept`` header prefers, and the parameters it names with it.

    The first that is offered stands for no header and for ``*/*``. Parameters are what follows a type, without its
    weight: ``application/json; form=raw``. Raises ``NotAcceptable``.
    """
    if not accept or not accept.strip():
        return offered[0], {}
    best: Tuple[float, int, str, Dict[str, str]] = (0.0, 0, "", {})
    for kind, weight, parameters in _parse(accept):
        # A type that is named is meant rather than one that a wildcard lets through; of equals, the first counts.
        rank = (weight, 2 - kind.count("*"))
        matching = [each for each in offered if _matches(kind, each)]
        if weight > 0 and matching and rank > best[:2]:
            best = (rank[0], rank[1], matching[0], parameters)
    if not best[2]:
        raise NotAcceptable(f"the client accepts {accept[:80]}, this model offers {', '.join(offered)}")
    return best[2], best[3]


def encode_npy(arrays: Sequence[Any]) -> Encoded:
    """Return arrays of one shape as an npy file, the items first; raise ``BadRequest`` where their shapes differ."""
    shapes = sorted({np.shape(each) for each in arrays})
    if len(shapes) > 1:
        raise BadRequest(
            f"the answers have the shapes {', '.join(map(str, shapes))}, which one npy array cannot hold; "
            "ask for one item at a time, or accept application/json"
        )
    stream = io.BytesIO()
    np.save(stream, np.stack([np.asarray(each) for each in arrays]), allow_pickle=False)
    return Encoded(NPY, stream.getvalue())


def _parse(accept: str) -> List[Tuple[str, float, Dict[str, str]]]:
    """Return the types of a header with their weights and parameters; what is no weight counts as 1."""
    found = []
    for part in accept.split(","):
        kind, *rest = (word.strip() for word in part.split(";"))
        named = dict(word.split("=", 1) for word in rest if "=" in word)
        values = {name.strip().lower(): value.strip().strip('"') for name, value in named.items()}
        found.append((kind.lower(), _weight(values.pop("q", "1")), values))
    return found


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 1.0


def _matches(kind: str, offered: str) -> bool:
    if kind in ("*/*", "*"):
        return True
    return kind == offered or (kind.endswith("/*") and offered.startswith(kind[:-1]))
