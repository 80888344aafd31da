"""The container's settings: parsed, checked together, and the same as the table in docs/containers.md."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.entrypoints import ROOT

from entrypoint import settings  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.faults import Fault  # isort: skip


def test_an_empty_environment_gives_safe_defaults() -> None:
    """Management and metrics on loopback, tokens wherever they can be, logs at warn."""
    chosen = settings.read_settings({})
    assert (chosen.management_bind, chosen.metrics_bind, chosen.tokens, chosen.guard) == (
        "127.0.0.1",
        "127.0.0.1",
        None,
        False,
    )
    assert (chosen.store, chosen.port, chosen.log, chosen.drain_seconds) == (Path("/models"), 8080, "warn", 25.0)


@pytest.mark.parametrize(
    ("text", "expected"), [("1048576", 2**20), ("512m", 2**29), ("2g", 2**31), ("2GiB", 2**31), ("3k", 3072)]
)
def test_bytes_have_units(text: str, expected: int) -> None:
    """Units are powers of 1024, as Docker takes them."""
    assert settings.parse_bytes(text) == expected


def test_workers_are_named_by_model() -> None:
    """TSN_WORKERS lists models with their workers."""
    assert settings.parse_workers("cifar10=2, bert=1") == {"cifar10": 2, "bert": 1}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TSN_PORT": "tcp://10.0.0.1:8080"}, "TSN_PORT is 'tcp.*enableServiceLinks"),
        ({"TSN_WORKERS": "cifar10"}, "'cifar10' is not MODEL=NUMBER"),
        ({"TSN_WORKERS": "cifar10=0"}, "'cifar10=0' is not MODEL=NUMBER"),
        ({"TSN_GUARD": "yes"}, "TSN_GUARD is 'yes': expected 0 or 1"),
        ({"TSN_BIND": "example.org"}, "TSN_BIND is 'example.org': expected an IPv4 address"),
        ({"TSN_MEMORY_LIMIT": "2 pounds"}, "TSN_MEMORY_LIMIT is '2 pounds': expected bytes"),
        ({"TSN_LOG": "loud"}, "TSN_LOG is 'loud'"),
        ({"TSN_TRUSTED_KEY": "/keys"}, "TSN_TRUSTED_KEY is no setting; did you mean TSN_TRUSTED_KEYS"),
        ({"TSN_TLS_KEY": "/key", "TSN_GUARD": "1"}, "TSN_TLS_CERTIFICATE and TSN_TLS_KEY belong together"),
        ({"TSN_TLS_KEY": "/key", "TSN_TLS_CERTIFICATE": "/c"}, "TSN_TLS_CERTIFICATE is the guard's: set TSN_GUARD=1"),
        ({"TSN_TOKEN_FILE": "/tokens"}, "TSN_TOKEN_FILE is the guard's: set TSN_GUARD=1"),
        ({"TSN_PORT": "8081"}, "the ports 8081, 8081, 8082 must differ"),
        ({"TSN_FOLDER": "here"}, "must be absolute"),
        ({"TSN_TOKEN_MINUTES": "99999999"}, "TSN_TOKEN_MINUTES is '99999999'"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], message: str) -> None:
    """The variable, its value, and what was expected."""
    with pytest.raises(Fault, match=message):
        settings.read_settings(environment)


def test_all_wrong_settings_are_named_together() -> None:
    """Nobody has to start a container three times to learn of three faults."""
    with pytest.raises(Fault) as caught:
        settings.read_settings({"TSN_PORT": "x", "TSN_LOG": "y", "TSN_NONSENSE": "z"})
    assert all(each in str(caught.value) for each in ("TSN_PORT", "TSN_LOG", "TSN_NONSENSE"))


def test_what_kubernetes_adds_for_a_service_is_passed_over() -> None:
    """A service named tsn brings TSN_SERVICE_HOST and TSN_PORT_8080_TCP to every pod."""
    assert settings.read_settings({"TSN_SERVICE_HOST": "10.0.0.1", "TSN_PORT_8080_TCP": "tcp://10.0.0.1:8080"})


def test_the_table_lists_every_setting_with_its_default() -> None:
    """docs/containers.md and the code agree on names and defaults."""
    text = (ROOT / "docs" / "containers.md").read_text()
    rows: list[Any] = re.findall(r"^\| `(TSN_\w+)` \| (?:`([^`]*)`)?", text, re.MULTILINE)
    assert dict(rows) == {each.name: each.default for each in settings.VARIABLES}
