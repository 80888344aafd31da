"""A running server as a stranger sees it: what is open, and what to do about it.

Everything here reads, or asks for what cannot be: a model of a name that no model has, a registration without a URL.
"""

from collections.abc import Callable
from dataclasses import replace

from serving.doctor import ERROR, OK, WARNING
from serving.errors import ServerError
from serving.exposure_asking import ask, connect_error
from serving.exposure_findings import Finding, Look
from serving.exposure_limits import look_at_bodies, look_at_foreign_urls, look_at_grpc, look_at_slow_clients
from serving.exposure_routes import Identity, identify, look_at_management, look_at_metrics, look_at_predictions
from serving.exposure_tls import look_at_transport
from serving.exposure_versions import find_vulnerabilities

_OTHER = {"http": "https", "https": "http"}


def examine_server(look: Look) -> list[Finding]:
    """Return the findings about one server, in an order to read them in.

    A server that does not answer, or is no TorchServe, is an error with which the look ends: nothing was judged.
    """
    stopped = _look_at_reach(look)
    if stopped is not None:
        return [stopped]
    identity, described = identify(look)
    if not identity.is_torchserve and not _answers_for_model(look):
        return [_report_stranger(look, identity)]
    bases = {f"management :{each.port}": each for each in look.management}
    bases["management on the inference port"] = look.server
    metrics = {f"metrics :{each.port}": each for each in look.metrics}
    metrics["metrics on the inference port"] = look.server
    checks: list[Callable[[], list[Finding]]] = [
        lambda: [_report_version(look, identity), *described],
        lambda: look_at_transport(look),
        lambda: [look_at_predictions(look)],
        lambda: [each for what, base in bases.items() for each in look_at_management(look, base, what)],
        lambda: [look_at_metrics(look, base, what) for what, base in metrics.items()],
        lambda: look_at_grpc(look),
        lambda: [look_at_bodies(look)],
    ]
    if look.active:
        checks += [lambda: [each for base in bases.values() for each in look_at_foreign_urls(look, base)]]
        checks += [lambda: [look_at_slow_clients(look)]]
    return [finding for check in checks for finding in _run(check)]


def _run(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except (OSError, ValueError, ServerError) as exc:  # a server that dies, or says nonsense, while it is looked at
        found = f"{type(exc).__name__}: {exc}"
        return [Finding(what="the look", level=ERROR, asked="the next thing", found=found, advice="look again")]


def _look_at_reach(look: Look) -> Finding | None:
    """Return why the server cannot be looked at, None if it can."""
    answer = look.ask(look.server, "GET", "/ping")
    asked = f"GET {look.server.url}/ping"
    if answer.status and not _refuses_http(answer.body):
        return None
    other = replace(look.server, scheme=_OTHER[look.server.scheme])
    if not connect_error(look.server.ip, look.server.port, seconds=look.seconds):
        reply = ask(other, "GET", "/ping", seconds=look.seconds)
        if reply.status and not _refuses_http(reply.body):
            advice = f"look at {other.url}"
            found = f"{answer.describe()}; the port speaks {other.scheme}"
            return Finding(what="server", level=ERROR, asked=asked, found=found, advice=advice)
    advice = "is it started, and is this its address? Nothing was judged"
    return Finding(what="server", level=ERROR, asked=asked, found=answer.describe(), advice=advice)


def _refuses_http(body: bytes) -> bool:
    """Whether a TLS port answered in clear that it wants TLS, as nginx does."""
    return b"plain HTTP request was sent to HTTPS port" in body


def _answers_for_model(look: Look) -> bool:
    """Whether a model that the caller has named is known there, or a key is wanted for it."""
    if not look.model:
        return False
    return look.ask(look.server, "POST", f"/predictions/{look.model}").status not in (0, 404, 405, 501)


def _report_stranger(look: Look, identity: Identity) -> Finding:
    return Finding(
        what="server",
        level=ERROR,
        asked=f"GET {look.server.url}/api-description, GET /ping, POST /predictions/{look.nobody}",
        found=identity.evidence,
        meaning="this is no TorchServe, or one behind something that hides it all; nothing was judged",
        advice="look at the address; if a guard is in front, name one of its models with --model",
    )


def _report_version(look: Look, identity: Identity) -> Finding:
    asked = f"GET {look.server.url}/api-description"
    if not identity.version:
        found = f"a TorchServe, by {identity.evidence or 'its answers'}; no version shown"
        meaning = "known vulnerabilities can only be tried, not looked up"
        return Finding(what="version", level=OK, asked=asked, found=found, meaning=meaning)
    known = find_vulnerabilities(identity.version)
    grave = [each for each in known if each.is_grave]
    listed = "; ".join(f"{each.id}: {each.what}" for each in grave or known)
    if grave:
        return Finding(
            what="version",
            level=ERROR,
            asked=asked,
            found=f"TorchServe {identity.version}",
            meaning=f"{len(grave)} grave known vulnerabilities: {listed}",
            advice="use TorchServe 0.12.0, the last one, or at least 0.11.0",
        )
    return Finding(
        what="version",
        level=WARNING if known else OK,
        asked=asked,
        found=f"TorchServe {identity.version}",
        meaning=f"{len(known)} weaknesses that no newer release mends all of: {', '.join(each.id for each in known)}",
        advice="SECURITY.md says what covers each" if known else "",
    )


__all__ = ["ERROR", "OK", "WARNING", "Finding", "examine_server"]
