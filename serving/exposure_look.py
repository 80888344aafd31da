"""Where the ports of a server are, from what a user says of it, and the keys that a user has."""

import json
from dataclasses import replace
from pathlib import Path

from serving.errors import ServerError
from serving.exposure_asking import Address, ask, parse_address, resolve
from serving.exposure_findings import Keys, Look

_USUAL = 8080  # TorchServe's own inference port; management and metrics follow, as with this kit


def prepare(
    server: str,
    *,
    management: str = "",
    metrics: str = "",
    grpc: tuple[int, int] = (7070, 7071),
    token: Path | None = None,
    model: str = "",
    active: bool = False,
    seconds: float = 5.0,
    slow_seconds: float = 30.0,
) -> Look:
    """Return the look at a server: addresses resolved, and those not given put beside the inference port.

    Raises ``ServerError`` over an address or a file of keys that cannot be used.
    """
    found = resolve(parse_address(server), seconds=seconds)
    return Look(
        server=found,
        management=_find_addresses(found, management, 1, seconds),
        metrics=_find_addresses(found, metrics, 2, seconds),
        grpc=grpc,
        keys=Keys() if token is None else read_keys(token),
        model=model,
        active=active,
        seconds=seconds,
        slow_seconds=slow_seconds,
    )


def read_keys(path: Path) -> Keys:
    """Return the keys in a file: TorchServe's ``key_file.json``, or one key alone, for inference and management.

    Raises ``ServerError`` if it cannot be read or has no key.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as exc:
        raise ServerError(f"{path} cannot be read ({exc}); expected TorchServe's key_file.json, or a key") from exc
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            return Keys(inference=content["inference"]["key"], management=content["management"]["key"])
    except (ValueError, KeyError, TypeError):
        pass  # a key is no JSON
    if not text or len(text.split()) != 1 or not text.isascii():
        raise ServerError(f"{path} has no key; expected TorchServe's key_file.json, or one line with a key")
    return Keys(inference=text, management=text)


def _find_addresses(server: Address, given: str, offset: int, seconds: float) -> tuple[Address, ...]:
    """Return where a port may be that is not the server's: as given, else beside it, and as TorchServe is shipped.

    On this machine the shipped ports may be another server's, and are not looked at.
    """
    if given:
        return (resolve(parse_address(given), seconds=seconds),)
    ports = [server.port + offset] if server.is_loopback else [server.port + offset, _USUAL + offset]
    usable = [port for port in dict.fromkeys(ports) if port <= 65535]
    return tuple(_choose_scheme(replace(server, port=port), seconds) for port in usable)


def _choose_scheme(address: Address, seconds: float) -> Address:
    """Return the address as plain http where it speaks no TLS: a guard has TLS, and what is behind it none."""
    if address.scheme == "https" and ask(address, "GET", "/", seconds=seconds).error.startswith("no TLS"):
        return replace(address, scheme="http")
    return address
