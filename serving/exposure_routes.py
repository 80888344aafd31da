"""What the HTTP routes of a server let a stranger do: predictions, management, metrics, its own description."""

import re
from dataclasses import dataclass

from serving.exposure_asking import Address, Answer, connect_error
from serving.exposure_findings import ERROR, OK, WARNING, Finding, Look, wants_key

_ORIGIN = "https://attacker.example"  # a page of somebody else's, as a browser would name it
_CLOSE_MANAGEMENT = (
    "bind management_address to 127.0.0.1 and publish inference alone, through a reverse proxy (docs/containers.md)"
)
# What a route that registers takes archives from, and what closes it.
_SOURCES = {
    "/models": (
        "URLs as far as allowed_urls lets them, and any local folder",
        "set enable_model_api=false (0.11.1 or newer; 0.11.0 cannot); see also --active",
    ),
    "/workflows": (
        "URLs as far as allowed_urls lets them, and files of the store",
        "no setting closes it up to 0.12.0; leave allowed_urls=none and management unpublished; see also --active",
    ),
}
_LEAK = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Identity:
    """What a server shows of itself."""

    is_torchserve: bool
    version: str  # "" where it is not shown
    evidence: str  # what tells so, in some words


def identify(look: Look) -> tuple[Identity, list[Finding]]:
    """Return what the server is, and what it says of itself to anybody."""
    answer = look.ask(look.server, "GET", "/api-description", origin=_ORIGIN)
    content = answer.read_json()
    info = content.get("info") if isinstance(content, dict) else None
    if isinstance(info, dict) and info.get("title") == "TorchServe APIs":
        return Identity(True, str(info.get("version", "")), "its API description"), [
            _weigh_description(look, answer, str(info.get("version", ""))),
            *_weigh_browsers(look, answer),
        ]
    ping = look.ask(look.server, "GET", "/ping")
    nobody = look.ask(look.server, "POST", f"/predictions/{look.nobody}")
    for each in (answer, ping, nobody):
        if each.kind in ("ResourceNotFoundException", "InvalidKeyException", "ModelNotFoundException"):
            return Identity(True, "", f"errors of type {each.kind}"), []
    state = ping.read_json()
    if isinstance(state, dict) and str(state.get("status", "")).endswith("ealthy"):
        return Identity(True, "", "its /ping, behind something that hides the rest"), []
    return Identity(False, "", f"/api-description: {answer.describe()}; /ping: {ping.describe()}"), []


def look_at_predictions(look: Look) -> Finding:
    """Return whether predictions want a key; a model is asked for an answer only if the caller has named one."""
    name = look.model or look.nobody
    route = f"/predictions/{name}"
    answer = look.ask(look.server, "POST", route)
    asked = f"POST {look.server.url}{route} with no body and no key"
    if wants_key(answer):
        return _weigh_key(look, asked, answer, route)
    if answer.error:
        return _weigh_silence(look, look.server, "predictions", asked, answer)
    if answer.status == 404 and answer.kind != "ModelNotFoundException":
        advice = "" if look.model else "name a model with --model to see whether it wants a key"
        meaning = "models are not to be guessed here"
        return _find("predictions", OK, asked, answer, meaning, advice)
    return _find(
        "predictions",
        look.worse_beyond(look.server, here=OK),
        asked,
        answer,
        "no key is wanted: whoever reaches the port uses the models, and finds out their names",
        ""
        if look.server.is_loopback
        else "switch tokens on (TOKEN=1; TorchServe 0.11.1 or newer), or put the guard in front (docs/containers.md)",
    )


def look_at_management(look: Look, base: Address, what: str) -> list[Finding]:
    """Return what management at an address lets a stranger do; nothing is changed: no model has the name asked."""
    answer = look.ask(base, "GET", "/models")
    asked = f"GET {base.url}/models"
    if answer.error:
        return [_weigh_silence(look, base, what, asked, answer)]
    if wants_key(answer):
        found = [_find(what, OK, asked, answer, "a key is wanted")]
        return found + (_look_inside(look, base, what) if look.keys.management and look.may_send_key(base) else [])
    content = answer.read_json()
    if answer.status != 200 or not isinstance(content, dict) or "models" not in content:
        return [_find(what, OK, asked, answer, "no management is reached there")]
    names = [str(each.get("modelName")) for each in content["models"] if isinstance(each, dict)]
    meaning = f"whoever reaches it controls the server; it lists {len(names)} model(s): {', '.join(names)[:200]}"
    level = look.worse_beyond(base)
    advice = _CLOSE_MANAGEMENT if level == ERROR else "where others have accounts on this machine, serve with TOKEN=1"
    return [_find(what, level, asked, answer, meaning, advice), *_look_inside(look, base, what)]


def look_at_metrics(look: Look, base: Address, what: str) -> Finding:
    """Return whether metrics are read by anybody, and what they give away."""
    answer = look.ask(base, "GET", "/metrics")
    asked = f"GET {base.url}/metrics"
    if answer.error:
        return _weigh_silence(look, base, what, asked, answer)
    text = answer.body.decode("utf-8", "replace")
    if answer.status != 200 or "# TYPE" not in text:
        return _find(what, OK, asked, answer, "no metrics are read there")
    labels: dict[str, set[str]] = {}
    for name, value in _LEAK.findall(text):
        labels.setdefault(name.lower(), set()).add(value)
    told = [f"{name} {', '.join(sorted(labels[name]))[:80]}" for name in ("hostname", "model_name") if name in labels]
    meaning = f"they tell {text.count('# TYPE')} figures: load, errors, times; {'; '.join(told) or 'no names'}"
    level = look.worse_beyond(base, here=OK, beyond=WARNING)
    advice = "bind metrics_address to 127.0.0.1 or to the monitoring's network; TorchServe asks for no key here"
    return _find(what, level, asked, answer, meaning, advice if level != OK else "")


def may_register(look: Look, base: Address, route: str, key: str = "") -> tuple[bool, Answer]:
    """Return whether registering on a route is open: an empty request misses its URL, a closed one its method."""
    answer = look.ask(base, "POST", route, key=key)
    return answer.status == 400 and "url is required" in answer.message, answer


def _look_inside(look: Look, base: Address, what: str) -> list[Finding]:
    """Return what a stranger, or else the holder of the caller's key, may change through management."""
    return [
        *(_look_at_registering(look, base, what, route) for route in _SOURCES),
        _look_at_scaling(look, base, what),
    ]


def _look_at_registering(look: Look, base: Address, what: str, route: str) -> Finding:
    key, name = look.keys.management, f"{what}: POST {route}"
    is_open, answer = may_register(look, base, route, key)
    asked = f"POST {base.url}{route} without a URL: 405 where it is closed, 400 where it is open"
    if answer.error:
        return _weigh_silence(look, base, name, asked, answer)
    if not is_open:
        return _find(name, OK, asked, answer, "registering is closed")
    source, setting = _SOURCES[route]
    level = WARNING if key else look.worse_beyond(base)
    return _find(name, level, asked, answer, f"{_who(look)} can register what is code: {source}", setting)


def _look_at_scaling(look: Look, base: Address, what: str) -> Finding:
    key, name = look.keys.management, f"{what}: scaling"
    answer = look.ask(base, "PUT", f"/models/{look.nobody}?min_worker=0&max_worker=0", key=key)
    asked = f"PUT {base.url}/models/{look.nobody}?min_worker=0, a model that does not exist"
    if answer.error:
        return _weigh_silence(look, base, name, asked, answer)
    if answer.kind != "ModelNotFoundException":
        return _find(name, OK, asked, answer, "scaling is closed")
    level = OK if key else look.worse_beyond(base)
    advice = "" if key else "no setting closes it; keep management on the loopback address, or behind a token"
    return _find(name, level, asked, answer, f"{_who(look)} can take every worker from a model", advice)


def _who(look: Look) -> str:
    return "the key's holder" if look.keys.management else "whoever reaches it"


def _weigh_silence(look: Look, base: Address, what: str, asked: str, answer: Answer) -> Finding:
    """Return the finding of a question that got no answer: well only where no connection is taken."""
    if connect_error(base.ip or base.host, base.port, seconds=look.seconds):
        return _find(what, OK, asked, answer, "nothing is reached there")
    advice = "look again with more --seconds, or find out what listens there"
    return _find(what, WARNING, asked, answer, "something listens and did not answer: it cannot be told", advice)


def _weigh_key(look: Look, asked: str, refused: Answer, route: str) -> Finding:
    """Return the finding of a server that wants a key, tried with the caller's where that is safe."""
    if not look.may_send_key(look.server):
        return _find(
            "predictions",
            ERROR,
            asked,
            refused,
            "a key is wanted, and travels in clear: whoever is on the way reads it",
            "serve https through the guard (docs/containers.md)",
        )
    meaning = "a key is wanted"
    if look.keys.inference:
        accepted = look.ask(look.server, "POST", route, key=look.keys.inference)
        if wants_key(accepted):
            advice = "renew it: TorchServe's keys expire after an hour (GET MANAGEMENT/token?type=inference)"
            return _find("predictions", WARNING, f"{asked}, then with yours", accepted, "your key is refused", advice)
        meaning += f"; yours is taken ({accepted.describe()})"
    return _find("predictions", OK, asked, refused, meaning)


def _weigh_description(look: Look, answer: Answer, version: str) -> Finding:
    level = look.worse_beyond(look.server, here=OK, beyond=WARNING)
    return _find(
        "description",
        level,
        f"GET {look.server.url}/api-description",
        answer,
        f"anybody learns that this is TorchServe {version}, and all its routes; no token is wanted for it",
        "let a reverse proxy pass the routes of your models only (docs/containers.md)" if level != OK else "",
    )


def _weigh_browsers(look: Look, answer: Answer) -> list[Finding]:
    allowed = answer.headers.get("access-control-allow-origin", "")
    if allowed not in ("*", _ORIGIN):
        return []
    return [
        _find(
            "browsers",
            WARNING,
            f"GET {look.server.url}/api-description with Origin: {_ORIGIN}",
            answer,
            f"Access-Control-Allow-Origin: {allowed} lets any web page read answers through its visitor's browser",
            "set cors_allowed_origin to the page that needs it, or leave it out",
        )
    ]


def _find(what: str, level: str, asked: str, answer: Answer, meaning: str, advice: str = "") -> Finding:
    return Finding(what=what, level=level, asked=asked, found=answer.describe(), meaning=meaning, advice=advice)
