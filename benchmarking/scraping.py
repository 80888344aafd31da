"""What a server's metrics say of one run: the mean time of each stage of a batch, and how many requests it held."""

import re
import time
from collections import defaultdict
from dataclasses import dataclass, field

import requests

_LINE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
_REPORTED = "tsn_batch_requests_count"
_SETTLING = 1.5  # seconds: a worker's report, once a second, and the frontend's reading of it
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Scrape:
    """The counters of a moment that a run is measured by; empty for a server without them."""

    counters: dict[tuple[str, str], float] = field(default_factory=dict)  # (name, stage) -> value

    def since(self, before: "Scrape") -> tuple[dict[str, float], float]:
        """Return the mean microseconds of each stage, and the mean requests in a batch, between two moments.

        "queue" is what TorchServe's own counter says: from a request's arrival until a worker has it.
        """
        grown = {key: value - before.counters.get(key, 0.0) for key, value in self.counters.items()}
        stages = {
            stage: grown["tsn_stage_seconds_sum", stage] / count * 1e6
            for (name, stage), count in grown.items()
            if name == "tsn_stage_seconds_count" and count > 0
        }
        arrived = grown.get(("ts_inference_requests_total", ""), 0.0)
        if arrived:
            stages["queue"] = grown.get(("ts_queue_latency_microseconds", ""), 0.0) / arrived
        batches = grown.get((_REPORTED, ""), 0.0)
        return stages, grown["tsn_batch_requests_sum", ""] / batches if batches else 0.0


def scrape_settled(port: int) -> Scrape:
    """Return the counters with all that was answered until now: workers report theirs up to a second later."""
    found = scrape(port)
    if (_REPORTED, "") not in found.counters:
        return found
    time.sleep(_SETTLING)
    return scrape(port)


def scrape(port: int) -> Scrape:
    """Return the counters that a server shows on its metrics port, none where it shows none."""
    try:
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    except requests.RequestException:
        return Scrape()
    counters: dict[tuple[str, str], float] = defaultdict(float)
    for line in text.splitlines():
        found = _LINE.match(line)
        if found:
            counters[found[1], dict(_LABEL.findall(found[2])).get("stage", "")] += float(found[3])
    return Scrape(dict(counters))
