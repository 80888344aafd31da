"""A real Prometheus for tests: the shipped configuration with other targets, scraping each second."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from tests import servers
from tests.monitored import FOLDER
from tests.ports import find_free_ports

MISSING = "" if shutil.which("prometheus") and shutil.which("promtool") else "needs prometheus and promtool"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    address: str  # without a slash at the end

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, ``{"metric": {...}, "value": [time, text]}``, but for NaN."""
        answer = requests.post(f"{self.address}/api/v1/query", data={"query": text}, timeout=10).json()
        assert answer["status"] == "success", f"{text}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return [sample for sample in found if sample["value"][1] != "NaN"]

    def value(self, text: str) -> float:
        """Return the one value of an instant query, 0 without a sample."""
        samples = self.query(text)
        assert len(samples) <= 1, f"{text}: {samples}"
        return float(samples[0]["value"][1]) if samples else 0.0

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their state: ``name``, ``health``, ``lastError``; alerts with ``alerts``."""
        data = requests.get(f"{self.address}/api/v1/rules", timeout=10).json()["data"]
        return [rule for group in data["groups"] for rule in group["rules"]]


@contextmanager
def run_prometheus(folder: Path, targets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Prometheus]:
    """Run Prometheus with monitoring/prometheus.yml for the time of a ``with``; its data go below ``folder``.

    ``targets`` are the ``static_configs`` of each job. Raises ``AssertionError`` if it does not get ready.
    """
    [port] = find_free_ports(1)
    command = [
        "prometheus",
        f"--config.file={_write_config(folder, targets)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    address = f"http://127.0.0.1:{port}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        servers.wait_for(lambda: _is_ready(address), "Prometheus", log=(folder / "prometheus.log").read_text)
        yield Prometheus(address)
    finally:
        process.terminate()
        process.wait(30)


def _write_config(folder: Path, targets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    shutil.copytree(FOLDER / "rules", folder / "rules")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [dict(each) for each in targets[job["job_name"]]]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _is_ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/-/ready", timeout=5).ok
    except requests.RequestException:
        return False
