"""The container's settings: environment variables with the prefix ``TSN_``, one table, all faults reported together."""

import difflib
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from .faults import Fault

MIB, GIB = 2**20, 2**30
_UNITS = {"": 1, "k": 2**10, "m": MIB, "g": GIB}
# What Kubernetes adds for a service named "tsn".
_FOREIGN = re.compile(r"TSN_(SERVICE_|PORT_\d)")


def parse_bytes(text: str) -> int:
    """Return the bytes of "512m", "2g" or "1048576"."""
    found = re.fullmatch(r"(\d+)([kmg]?)(i?b)?", text.strip().lower())
    if not found:
        raise ValueError("expected bytes, such as 512m or 2g")
    return int(found[1]) * _UNITS[found[2]]


def parse_workers(text: str) -> Dict[str, int]:
    """Return the workers of each model in "cifar10=2,bert=1"."""
    counts = {}
    for part in _parse_names(text):
        name, _, count = part.partition("=")
        if not name or not count.isdigit() or int(count) < 1:
            raise ValueError(f"{part!r} is not MODEL=NUMBER, such as cifar10=2")
        counts[name] = int(count)
    return counts


def _parse_names(text: str) -> Tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return text == "1"


def _parse_port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError("expected a port; where Kubernetes sets it for a service, say enableServiceLinks: false")
    return int(text)


def _parse_any_port(text: str) -> int:
    return 0 if text == "0" else _parse_port(text)


def _parse_seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError("expected seconds, such as 25")
    return float(text)


def _parse_minutes(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 35_000_000:
        raise ValueError("expected minutes from 1 to 35000000")
    return int(text)


def _parse_count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("expected a whole number over 0")
    return int(text)


def _parse_address(text: str) -> str:
    if not re.fullmatch(r"[0-9.]+|localhost", text):
        raise ValueError("expected an IPv4 address, such as 127.0.0.1 or 0.0.0.0")
    return text


def _parse_log(text: str) -> str:
    if text not in ("error", "warn", "info", "debug"):
        raise ValueError("expected error, warn, info or debug")
    return text


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


class Variable(NamedTuple):
    """One row of the table in docs/containers.md."""

    name: str  # of the environment variable
    field: str  # of ``Settings``
    default: str
    parse: Callable[[str], Any]  # raises ValueError


VARIABLES = (
    Variable("TSN_MODEL_STORE", "store", "/models", Path),
    Variable("TSN_MODELS", "models", "", _parse_names),
    Variable("TSN_WORKERS", "workers", "", parse_workers),
    Variable("TSN_FOLDER", "folder", "/var/lib/torchserve-neuron", Path),
    Variable("TSN_BIND", "bind", "0.0.0.0", _parse_address),  # noqa: S104  inside the container
    Variable("TSN_PORT", "port", "8080", _parse_port),
    Variable("TSN_MANAGEMENT_BIND", "management_bind", "127.0.0.1", _parse_address),
    Variable("TSN_MANAGEMENT_PORT", "management_port", "8081", _parse_port),
    Variable("TSN_METRICS_BIND", "metrics_bind", "127.0.0.1", _parse_address),
    Variable("TSN_METRICS_PORT", "metrics_port", "8082", _parse_port),
    Variable("TSN_GRPC_PORT", "grpc_port", "0", _parse_any_port),
    Variable("TSN_TOKENS", "tokens", "", _optional(_parse_switch)),
    Variable("TSN_TOKEN_MINUTES", "token_minutes", "5256000", _parse_minutes),
    Variable("TSN_GUARD", "guard", "0", _parse_switch),
    Variable("TSN_TOKEN_FILE", "token_file", "", _optional(Path)),
    Variable("TSN_TLS_CERTIFICATE", "certificate", "", _optional(Path)),
    Variable("TSN_TLS_KEY", "key", "", _optional(Path)),
    Variable("TSN_CLIENT_SECONDS", "client_seconds", "15", _parse_seconds),
    Variable("TSN_ANSWER_SECONDS", "answer_seconds", "130", _parse_seconds),
    Variable("TSN_TRUSTED_KEYS", "trusted", "", _optional(Path)),
    Variable("TSN_MEMORY_LIMIT", "memory_limit", "", _optional(parse_bytes)),
    Variable("TSN_WORKER_MEMORY", "worker_memory", "410m", parse_bytes),
    Variable("TSN_HEAP", "heap", "1g", parse_bytes),
    Variable("TSN_MAX_REQUEST", "max_request", "16m", parse_bytes),
    Variable("TSN_MAX_RESPONSE", "max_response", "16m", parse_bytes),
    Variable("TSN_QUEUE", "queue", "256", _parse_count),
    Variable("TSN_DRAIN_SECONDS", "drain_seconds", "25", _parse_seconds),
    Variable("TSN_LOG", "log", "warn", _parse_log),
)


class Settings(NamedTuple):
    """What the environment says; the table in docs/containers.md explains each field."""

    store: Path
    models: Tuple[str, ...]  # names of models or of files; none: all
    workers: Dict[str, int]
    folder: Path
    bind: str
    port: int
    management_bind: str
    management_port: int
    metrics_bind: str
    metrics_port: int
    grpc_port: int  # of inference, management has the next; 0: any that are free
    tokens: Optional[bool]  # None: where the server or the guard can
    token_minutes: int
    guard: bool
    token_file: Optional[Path]
    certificate: Optional[Path]
    key: Optional[Path]
    client_seconds: float
    answer_seconds: float
    trusted: Optional[Path]
    memory_limit: Optional[int]  # bytes; None: the container's
    worker_memory: int  # bytes of a worker beside its model
    heap: int  # bytes of the JVM's heap
    max_request: int  # bytes
    max_response: int  # bytes
    queue: int  # requests waiting for each model
    drain_seconds: float
    log: str


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings; raise ``Fault`` that names every variable that is wrong or unknown."""
    values, faults = {}, _find_unknown(environment)
    for variable in VARIABLES:
        text = environment.get(variable.name, "").strip() or variable.default
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as exc:
            faults.append(f"{variable.name} is {text!r}: {exc}")
    if faults:
        raise Fault("; ".join(faults))
    settings = Settings(**values)
    faults = _find_contradictions(settings)
    if faults:
        raise Fault("; ".join(faults))
    return settings


def is_loopback(address: str) -> bool:
    """Whether nobody outside this host, or this container, reaches the address."""
    return address == "localhost" or address.startswith("127.")


def _find_unknown(environment: Mapping[str, str]) -> List[str]:
    # A misspelt TSN_TRUSTED_KEYS must not mean that signatures are not asked for.
    known = [variable.name for variable in VARIABLES]
    faults = []
    for name in sorted(environment):
        if name.startswith("TSN_") and name not in known and not _FOREIGN.match(name):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            faults.append(f"{name} is no setting; {hint}")
    return faults


def _find_contradictions(settings: Settings) -> List[str]:
    faults = []
    if (settings.certificate is None) != (settings.key is None):
        faults.append("TSN_TLS_CERTIFICATE and TSN_TLS_KEY belong together: set both or neither")
    for name, value in (("TSN_TLS_CERTIFICATE", settings.certificate), ("TSN_TOKEN_FILE", settings.token_file)):
        if value is not None and not settings.guard:
            faults.append(f"{name} is the guard's: set TSN_GUARD=1")
    if not settings.folder.is_absolute() or not settings.store.is_absolute():
        faults.append("TSN_FOLDER and TSN_MODEL_STORE must be absolute paths")
    ports = [settings.port, settings.management_port, settings.metrics_port]
    ports += [settings.grpc_port, settings.grpc_port + 1] if settings.grpc_port else []
    if len(set(ports)) < len(ports):
        faults.append(f"the ports {', '.join(map(str, ports))} must differ from one another")
    return faults
