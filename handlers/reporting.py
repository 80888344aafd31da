"""Sends what a worker counts to TorchServe: lines on its standard output, at most once a second, none when idle.

TorchServe reads metrics from lines that a worker prints. They are written here and not by TorchServe's Python side,
which takes a look-up of the host's name, a log record and a write for each number.
"""

import re
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from handlers.metrics import Labels, Metrics, Series

Send = Callable[[List[str]], None]

_PAUSE = 1.0  # seconds between reports
_NOT_IN_A_LABEL = re.compile(r"[^\w.+/-]", re.ASCII)  # TorchServe splits labels at commas, colons and bars


class Reporter:
    """Sends a worker's metrics in the background; ``touch`` is all that the worker does for it after a batch."""

    def __init__(self, metrics: Metrics, *, pause: float = _PAUSE) -> None:
        self.metrics = metrics
        self.pause = pause  # seconds
        self._send: Optional[Send] = None
        self._labels: Labels = ()
        self._sent: Dict[Tuple[str, Labels], float] = {}
        # TorchServe drops a line when another worker introduces the same name at that moment. The first report holds
        # nothing but zeros and states, so that it can be sent again.
        self._complete_reports = 2
        self._due = threading.Event()
        self._one_at_a_time = threading.Lock()

    def start(self, labels: Mapping[str, str], send: Optional[Send] = None) -> None:
        """Report from now on, with ``labels`` on every series, to ``send``; by default to TorchServe."""
        self._labels = tuple((name, clean_label(value)) for name, value in labels.items())
        self._send = send or write_lines
        self.report()
        self.touch()
        threading.Thread(target=self._keep_reporting, name="metrics", daemon=True).start()

    def touch(self) -> None:
        """Say that there is something to report; costs next to nothing where that was said already."""
        if not self._due.is_set():
            self._due.set()

    def report(self) -> None:
        """Send what has changed since the last report; never raises, because no answer is to fail over a metric."""
        with self._one_at_a_time:
            if self._send is None:
                return
            try:
                self._send(self._take_lines())
            except Exception as exc:
                print(f"metrics are not reported ({type(exc).__name__}: {exc})", file=sys.stderr, flush=True)

    def _keep_reporting(self) -> None:
        while self._due.wait():
            # What comes in the pause goes with this report; what comes after ``clear`` brings about the next one.
            time.sleep(self.pause)
            self._due.clear()
            self.report()

    def _take_lines(self) -> List[str]:
        """Return the lines of a report: all states, and the increments of counters.

        The states come first and in every report: should something else have left half a line on the output, the line
        that is lost with it is one that comes again.
        """
        suffix = f"|#hostname:{clean_label(socket.gethostname())},{int(time.time())}\n"
        lines = [_format(each, self._labels, "GAUGE") + suffix for each in self.metrics.states()]
        for each in self._take_increments():
            lines.append(_format(each, self._labels, "COUNTER") + suffix)
        self._complete_reports -= 1
        return lines

    def _take_increments(self) -> Iterable[Series]:
        for each in self.metrics.counters():
            key = (each.name, each.labels)
            increment = each.value - self._sent.get(key, 0)
            if increment > 0 or self._complete_reports > 0:
                self._sent[key] = each.value
                yield each._replace(value=increment)


def read_names(context: Any) -> Optional[Dict[str, str]]:
    """Return a model's labels by what TorchServe calls it, or None where nobody listens to metrics.

    The name is that of the URL, which need not be the archive's own.
    """
    if getattr(context, "metrics", None) is None:
        return None
    manifest = (context.manifest or {}).get("model", {})
    return {"model_name": str(context.model_name), "model_version": str(manifest.get("modelVersion", ""))}


def clean_label(value: str) -> str:
    """Return a label's value as TorchServe's parser takes it: no separators, not empty, not long."""
    return _NOT_IN_A_LABEL.sub("_", value)[:100] or "none"


def write_lines(lines: List[str]) -> None:
    """Write whole lines to standard output at once, so that those of other threads come before or after them."""
    sys.stdout.write("".join(lines))
    sys.stdout.flush()


def _format(series: Series, labels: Labels, kind: str) -> str:
    """Return a line as TorchServe's ``Metric.java`` parses it, but for the host.

    Its numbers know no plus sign, so no exponent of large ones; labels follow the first line of a name by position.
    """
    value = f"{series.value:d}" if isinstance(series.value, int) else f"{series.value:.9f}"
    pairs = ",".join(f"{name}:{each}" for name, each in (*labels, *series.labels, ("Level", "Model")))
    return f"[METRICS]{series.name}.{series.unit}:{value}|#{pairs}|#type:{kind}"
