"""Requests to a server of ours: predictions with an archive's golden requests, and the state of its workers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from handlers.artifact import Golden
from handlers.service import EMULATED_HEADER

_RENEWAL = 5.0  # seconds for TorchServe to make a new key


@dataclass(frozen=True)
class Reply:
    """What a server said, or why it said nothing."""

    status: int  # HTTP; 0 if there was no answer
    text: str  # body, or the reason why there is none
    emulated: str = ""  # the instance that an emulator stood in for

    def read_error(self) -> tuple[str, str]:
        """Return type and message of a JSON error body, the bare text as message where it is none."""
        try:
            body = json.loads(self.text)
            return str(body["type"]), str(body["message"])
        except (ValueError, KeyError, TypeError):
            return "", self.text.strip()[:500]


@dataclass(frozen=True)
class Client:
    """One server, as a client on the same host sees it."""

    port: int  # of inference; management is the next
    run_folder: Path  # where TorchServe writes its keys, if tokens are on

    def predict(self, model: str, body: bytes, content_type: str, *, timeout: float) -> Reply:
        """Send one request to a model."""
        headers = {"Content-Type": content_type}
        url = self.prediction_url(model)
        return self._ask_with_key("inference", "POST", url, timeout=timeout, data=body, headers=headers)

    def describe(self, model: str, *, customized: bool, timeout: float) -> list[dict[str, Any]] | None:
        """Return what the management API says of a model, or None."""
        reply = self.ask_state(model, customized=customized, timeout=timeout)
        try:
            content = json.loads(reply.text)
        except ValueError:
            return None
        return content if reply.status == 200 and isinstance(content, list) else None

    def ask_state(self, model: str, *, customized: bool, timeout: float) -> Reply:
        """Ask the management API about a model; ``customized`` adds what one worker says of itself."""
        params = {"customized": "true"} if customized else {}
        url = f"{self._management_url}/models/{model}"
        return self._ask_with_key("management", "GET", url, timeout=timeout, params=params, headers={})

    def prediction_url(self, model: str) -> str:
        """Return the address of a model's predictions."""
        return f"http://127.0.0.1:{self.port}/predictions/{model}"

    def authorization(self, kind: str) -> dict[str, str]:
        """Return the header that a server with tokens wants, empty for one without.

        ``kind`` is "inference", "management", or "API" for the key that makes new ones.
        """
        try:
            key = json.loads((self.run_folder / "key_file.json").read_text())[kind]["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {"Authorization": f"Bearer {key}"}

    @property
    def _management_url(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    def _ask_with_key(self, kind: str, method: str, url: str, *, headers: dict[str, str], **arguments: Any) -> Reply:
        """Send a request with the key of its kind; one that has expired, after an hour, is renewed."""
        reply = self._ask(method, url, headers={**headers, **self.authorization(kind)}, **arguments)
        if reply.read_error()[0] != "InvalidKeyException":
            return reply
        # TorchServe writes the new key into its file, and the old one is dead from then on.
        self._ask(
            "GET", f"{self._management_url}/token?type={kind}", timeout=_RENEWAL, headers=self.authorization("API")
        )
        return self._ask(method, url, headers={**headers, **self.authorization(kind)}, **arguments)

    def _ask(self, method: str, url: str, *, timeout: float, **arguments: Any) -> Reply:
        try:
            with requests.Session() as session:
                session.trust_env = False  # a proxy for the outside has no part in talking to this host
                response = session.request(method, url, timeout=timeout, **arguments)
            return Reply(response.status_code, response.text, response.headers.get(EMULATED_HEADER, ""))
        except requests.RequestException as exc:
            return Reply(0, f"{type(exc).__name__}: {exc}")


def curl_line(client: Client, model: str, golden: Golden, file: Path) -> str:
    """Return the shell command that sends a golden request."""
    import shlex

    headers = [part for name, value in client.authorization("inference").items() for part in ("-H", f"{name}: {value}")]
    if golden.content_type == "application/json":
        headers += ["-H", "Content-Type: application/json"]
    return shlex.join(["curl", client.prediction_url(model), *headers, "-T", str(file)])
