"""Whether two answers are the same, numbers within a tolerance: for golden requests, in both halves."""

import json
from typing import Any, Dict


def find_difference(expected: Any, found: Any, tolerance: float, where: str = "answer") -> str:
    """Return how two JSON values differ, or "". Numbers may be ``tolerance`` apart.

    In an object of numbers, such as the top five labels, a key may be missing on one side as long as its number is
    not above the smallest on that side: the fifth and sixth of a ranking may trade places. One key must be on both.
    """
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or isinstance(expected, str):
        same = type(expected) is type(found) and expected == found  # True is no 1
        return "" if same else f"{where} is {found!r}, expected {expected!r}"
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        off = abs(expected - found)
        return "" if off <= tolerance else f"{where} is {found:.6g}, expected {expected:.6g} within {tolerance:g}"
    if isinstance(expected, dict) and isinstance(found, dict):
        return _find_key_difference(expected, found, tolerance, where)
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found))
        return next((d for n, (a, b) in pairs for d in [find_difference(a, b, tolerance, f"{where}[{n}]")] if d), "")
    return f"{where} is {json.dumps(found)[:80]}, expected {json.dumps(expected)[:80]}"


def _find_key_difference(expected: Dict[str, Any], found: Dict[str, Any], tolerance: float, where: str) -> str:
    if expected and not set(expected) & set(found):
        return f"{where} has {sorted(found)!r:.80}, expected {sorted(expected)!r:.80}"
    for key in [*expected, *(key for key in found if key not in expected)]:
        if key in expected and key in found:
            difference = find_difference(expected[key], found[key], tolerance, f"{where}[{key!r}]")
            if difference:
                return difference
            continue
        value, other = (expected[key], found) if key in expected else (found[key], expected)
        lowest = min((each for each in other.values() if _is_number(each)), default=0.0)
        if not _is_number(value) or value > lowest + tolerance:
            return f"{where} {'lacks' if key in expected else 'has the unexpected'} {key!r}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
