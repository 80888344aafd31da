"""What was found of a server that was looked at from outside, and what all the looks share."""

import secrets
from dataclasses import dataclass, field

from serving.doctor import ERROR, OK, WARNING
from serving.exposure_asking import Address, Answer, ask

__all__ = ["ERROR", "OK", "WARNING", "Finding", "Keys", "Look"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str  # was looked at
    level: str  # ok, warning or error
    asked: str  # the request, or what else was done
    found: str  # what came back
    meaning: str = ""  # what an attacker makes of it
    advice: str = ""  # what to do; empty where nothing is to be done


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys that a caller has; empty: none."""

    inference: str = field(default="", repr=False)
    management: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at one server: where it is, and how far the doctor may go."""

    server: Address  # of inference
    management: tuple[Address, ...]  # where management may be, besides the inference port
    metrics: tuple[Address, ...]
    grpc: tuple[int, int] = (7070, 7071)  # ports of inference and management, on the server's host
    keys: Keys = field(default_factory=Keys)
    model: str = ""  # one that may be asked for an answer
    active: bool = False  # whether the server may be made to do something that can change nothing
    seconds: float = 5.0  # for each answer
    slow_seconds: float = 30.0  # that a slow client's connection is held
    # No model has this name, so that a request that would change a model changes none.
    nobody: str = field(default_factory=lambda: f"doctor-{secrets.token_hex(8)}")

    def ask(
        self, address: Address, method: str, path: str, *, key: str = "", origin: str = "", announced: int = 0
    ) -> Answer:
        """Return the answer to one request; a key is never sent in clear beyond this machine."""
        headers = {"Origin": origin} if origin else {}
        if key and self.may_send_key(address):
            headers["Authorization"] = f"Bearer {key}"
        return ask(address, method, path, headers=headers, announced=announced, seconds=self.seconds)

    def may_send_key(self, address: Address) -> bool:
        """Whether nobody on the way could read a key."""
        return address.scheme == "https" or address.is_loopback

    def worse_beyond(self, address: Address, *, here: str = WARNING, beyond: str = ERROR) -> str:
        """Return the level of something open: on this machine's loopback address only its users reach it."""
        return here if address.is_loopback else beyond


def wants_key(answer: Answer) -> bool:
    """Whether a server refused for want of a key: TorchServe with 400, everything else with 401 or 403."""
    return answer.kind == "InvalidKeyException" or answer.status in (401, 403)
