"""Prometheus metrics of ``neuron-monitor``'s reports: ``neuron-monitor | python neuron_monitor_exporter.py``.

AWS's tools bring ``neuron-monitor-prometheus.py``, which is the one to use where they are installed. This program
answers with the same names, labels and types wherever only the reports are there, as on an emulated host. Names: AWS's
Grafana dashboard (aws-neuron-sdk: src/examples/neuron-monitor/neuron-monitor-grafana.json) and published scrapes of
its exporter. Standard library only, Python 3.8.
"""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

Labels = Tuple[Tuple[str, str], ...]  # sorted by name
Sample = Tuple[str, Dict[str, str], float]

COUNTERS = {
    "execution_status_total": "Executions by how they ended",
    "execution_errors_total": "Executions that failed, by kind of error",
    "hardware_ecc_events_total": "Memory errors of a device, by kind",
}
GAUGES = {
    "execution_latency_seconds": "Latency of executions of the last period, by percentile",
    "instance_info": "The instance, in its labels",
    "neuron_runtime_memory_used_bytes": "Memory that a runtime uses, on host and devices",
    "neuron_runtime_vcpu_usage_ratio": "A runtime's share of the processors",
    "neuroncore_memory_usage_constants": "Bytes of a core's memory that constants take",
    "neuroncore_memory_usage_model_code": "Bytes of a core's memory that model code takes",
    "neuroncore_memory_usage_model_shared_scratchpad": "Bytes of a core's memory that the shared scratchpad takes",
    "neuroncore_memory_usage_runtime_memory": "Bytes of a core's memory that the runtime takes",
    "neuroncore_memory_usage_tensors": "Bytes of a core's memory that tensors take",
    "neuroncore_utilization_ratio": "Share of the last period for which a core computed",
    "system_memory_total_bytes": "Memory of the host",
    "system_memory_used_bytes": "Memory of the host that is used",
    "system_swap_total_bytes": "Swap of the host",
    "system_swap_used_bytes": "Swap of the host that is used",
    "system_vcpu_count": "Processors of the host",
    "system_vcpu_usage_ratio": "Share of the processors' time, by use",
}
_INSTANCE_LABELS = {
    "instance_name": "instance_name",
    "instance_id": "instance_id",
    "instance_type": "instance_type",
    "availability_zone": "instance_availability_zone",
    "region": "instance_region",
    "subnet_id": "subnet_id",
}
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Reports:
    """The last report, and what the reports so far add up to; any thread may read while another adds."""

    def __init__(self) -> None:
        self._gauges: List[Sample] = []
        self._totals: Dict[Tuple[str, Labels], float] = {}
        self._lock = threading.Lock()

    def add(self, report: Mapping[str, Any]) -> None:
        """Take a report: its gauges replace the last one's, its counts of executions are added up.

        ``neuron-monitor`` counts executions of a period; groups with periods of their own would be counted twice.
        """
        gauges = [sample for sample in read_samples(report) if sample[0] in GAUGES]
        counts = [sample for sample in read_samples(report) if sample[0] in COUNTERS]
        with self._lock:
            self._gauges = gauges
            for name, labels, value in counts:
                key = name, tuple(sorted(labels.items()))
                # Memory errors are the device's own running count.
                before = 0.0 if name == "hardware_ecc_events_total" else self._totals.get(key, 0.0)
                self._totals[key] = before + value

    def render(self) -> str:
        """Return all samples in Prometheus's text format, "" before the first report."""
        with self._lock:
            totals = [(name, dict(labels), value) for (name, labels), value in self._totals.items()]
            samples = [*self._gauges, *totals]
        lines: List[str] = []
        for kind, described in (("gauge", GAUGES), ("counter", COUNTERS)):
            for name, meaning in described.items():
                found = [_render_sample(*sample) for sample in samples if sample[0] == name]
                lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *found] if found else []
        return "".join(f"{line}\n" for line in lines)


def read_samples(report: Mapping[str, Any]) -> Iterator[Sample]:
    """Yield what a report holds, as ``(name, labels, value)``; groups that it lacks are left out."""
    info = report.get("instance_info", {})
    common = {label: str(info.get(key, "")) for label, key in _INSTANCE_LABELS.items()}
    yield "instance_info", common, 1.0
    for runtime in report.get("neuron_runtime_data", []):
        labels = {**common, "runtime_tag": str(runtime.get("neuron_runtime_tag", ""))}
        for name, own, value in _read_runtime(runtime.get("report", {})):
            yield name, {**labels, **own}, value
    for name, own, value in _read_system(report.get("system_data", {})):
        yield name, {**common, **own}, value


def _read_runtime(groups: Mapping[str, Any]) -> Iterator[Sample]:
    for core, counters in groups.get("neuroncore_counters", {}).get("neuroncores_in_use", {}).items():
        yield "neuroncore_utilization_ratio", {"neuroncore": core}, counters["neuroncore_utilization"] / 100
    executions = groups.get("execution_stats", {})
    for status, count in executions.get("execution_summary", {}).items():
        yield "execution_status_total", {"status_type": status}, count
    for error, count in executions.get("error_summary", {}).items():
        yield "execution_errors_total", {"error_type": error}, count
    # null where nothing was executed in the period
    for percentile, seconds in (executions.get("latency_stats", {}).get("total_latency") or {}).items():
        yield "execution_latency_seconds", {"percentile": percentile}, seconds
    for usage, percent in groups.get("neuron_runtime_vcpu_usage", {}).get("vcpu_usage", {}).items():
        yield "neuron_runtime_vcpu_usage_ratio", {"usage_type": usage}, percent / 100
    yield from _read_memory(groups.get("memory_used", {}).get("neuron_runtime_used_bytes", {}))


def _read_memory(used: Mapping[str, Any]) -> Iterator[Sample]:
    for location in ("host", "neuron_device"):
        if location in used:
            yield "neuron_runtime_memory_used_bytes", {"memory_location": location}, used[location]
    for core, parts in used.get("usage_breakdown", {}).get("neuroncore_memory_usage", {}).items():
        for part, size in parts.items():
            # The word "None" is what AWS's exporter says here.
            yield f"neuroncore_memory_usage_{part}", {"neuroncore": core, "memory_location": "None"}, size


def _read_system(groups: Mapping[str, Any]) -> Iterator[Sample]:
    processors = groups.get("vcpu_usage", {})
    for usage, percent in processors.get("average_usage", {}).items():
        yield "system_vcpu_usage_ratio", {"usage_type": usage}, percent / 100
    if "usage_data" in processors:
        yield "system_vcpu_count", {}, len(processors["usage_data"])
    memory = groups.get("memory_info", {})
    for what in ("memory_total", "memory_used", "swap_total", "swap_used"):
        if f"{what}_bytes" in memory:
            yield f"system_{what}_bytes", {}, memory[f"{what}_bytes"]
    for device in groups.get("neuron_hw_counters", {}).get("neuron_devices", []):
        for event, count in device.items():
            if event != "neuron_device_index":
                labels = {"event_type": event, "neuron_device_index": str(device["neuron_device_index"])}
                yield "hardware_ecc_events_total", labels, count


def _render_sample(name: str, labels: Mapping[str, str], value: float) -> str:
    written = ",".join(f'{label}="{_escape(text)}"' for label, text in sorted(labels.items()))
    return f"{name}{{{written}}} {float(value)!r}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def serve_reports(reports: Reports, bind: str, port: int) -> ThreadingHTTPServer:
    """Return a server that answers ``GET /metrics`` from a thread of its own; raises ``OSError`` if it cannot bind."""

    class Answer(BaseHTTPRequestHandler):
        timeout = 10  # seconds; a client that sends nothing must not keep a thread

        def do_GET(self) -> None:
            """Answer with the samples as they are now."""
            known = self.path.split("?")[0] in ("/metrics", "/")
            body = reports.render().encode() if known else b"the metrics are at /metrics\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", _CONTENT_TYPE if known else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet: a scrape is not worth a line."""

    server = ThreadingHTTPServer((bind, port), Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def follow(stream: IO[str], reports: Reports) -> int:
    """Add every report of ``stream`` until it ends; return the number of lines that were none."""
    bad = 0
    for line in stream:
        try:
            reports.add(json.loads(line))
        except (ValueError, TypeError, AttributeError, LookupError) as exc:
            bad += 1
            print(f"not a report of neuron-monitor ({type(exc).__name__}: {exc}): {line[:200]}", file=sys.stderr)
    return bad


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Serve the reports on standard input; return 1 when they end, because then the metrics are old."""
    parser = argparse.ArgumentParser(description="Answer with Prometheus metrics of neuron-monitor's reports on stdin.")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000, as AWS's exporter)")
    options = parser.parse_args(arguments)
    reports = Reports()
    try:
        server = serve_reports(reports, options.bind, options.port)
    except OSError as exc:
        print(f"cannot listen on {options.bind}:{options.port} ({exc}); choose another --port", file=sys.stderr)
        return 2
    try:
        follow(sys.stdin, reports)
    except KeyboardInterrupt:
        return 0
    finally:
        server.shutdown()
        server.server_close()
    print("neuron-monitor has ended: no more reports on standard input", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
