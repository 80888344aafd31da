"""How far a run of known length has come, in a line that ends with what is next."""

import time
from collections.abc import Callable

_WIDTH = 20  # characters of the bar


class Steps:
    """Tells of each step as it begins: a bar, the share that is done, the time that is left, and the step."""

    def __init__(self, total: int, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._tell, self._clock = total, tell, clock
        self._began = clock()
        self._done = -1  # none has begun

    def begin(self, what: str) -> None:
        """Tell that the step before has ended and ``what`` begins."""
        self._done = min(self._done + 1, self._total)
        share = self._done / self._total
        filled = int(share * _WIDTH)
        bar = "#" * filled + "." * (_WIDTH - filled)
        self._tell(f"[{bar}] {share:4.0%}  {what}{self._describe_rest()}")

    def _describe_rest(self) -> str:
        if self._done < 1:
            return ""  # nothing to judge by
        seconds = (self._clock() - self._began) / self._done * (self._total - self._done)
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"
