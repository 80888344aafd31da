"""What a server offers of TLS: protocol versions, and a certificate that clients can trust."""

import socket
import ssl
import time
import warnings
from typing import Any

from serving.exposure_asking import Address, unverified_context
from serving.exposure_findings import ERROR, OK, WARNING, Finding, Look

_VERSIONS = {"1.0": ssl.TLSVersion.TLSv1, "1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2}
_VERSIONS["1.3"] = ssl.TLSVersion.TLSv1_3
_SOON = 30  # days before the end of a certificate at which it should be renewed
_NO_MORE = {"1.0", "1.1"}  # RFC 8996


def look_at_transport(look: Look) -> list[Finding]:
    """Return how requests travel to the server: in clear, or in which TLS."""
    if look.server.scheme == "https":
        return [_look_at_versions(look), _look_at_certificate(look)]
    level = look.worse_beyond(look.server, here=OK, beyond=WARNING)
    return [
        Finding(
            what="transport",
            level=level,
            asked=f"the scheme of {look.server.url}",
            found="plain http",
            meaning="it stays on this machine" if level == OK else "whoever is on the way reads and changes everything",
            advice="serve https through the guard (docs/containers.md)" if level != OK else "",
        )
    ]


def offered_versions(address: Address, *, seconds: float) -> list[str]:
    """Return the TLS versions in which a handshake succeeds, oldest first."""
    return [name for name, version in _VERSIONS.items() if _shakes_hands(address, version, seconds)]


def read_certificate(address: Address, *, seconds: float) -> tuple[dict[str, Any], str]:
    """Return the fields of a server's certificate, empty if it is out of its dates, and why it is not trusted.

    Any: the form of ``ssl.SSLSocket.getpeercert``. The reason is empty for one that this machine's authorities and
    the host's name vouch for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reason = _handshake_error(ssl.create_default_context(), address, seconds)
    pem = _fetch_certificate(address, seconds)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate vouches for itself, so that it is read
    context.load_verify_locations(cadata=pem)
    try:
        with _connect(context, address, seconds) as stream:
            return dict(stream.getpeercert() or {}), reason
    except OSError as exc:
        return {}, getattr(exc, "verify_message", "") or reason or str(exc)


def _look_at_versions(look: Look) -> Finding:
    offered = offered_versions(look.server, seconds=look.seconds)
    old = [each for each in offered if each in _NO_MORE]
    asked = f"a handshake with {look.server.url} in each of TLS {', '.join(_VERSIONS)}"
    found = f"offers TLS {', '.join(offered) or 'in no version'}"
    if old:
        meaning = f"TLS {' and '.join(old)} can be broken (RFC 8996)"
        return Finding(what="TLS", level=ERROR, asked=asked, found=found, meaning=meaning, advice="allow 1.2 and 1.3")
    if "1.3" not in offered:
        advice = "end TLS at the guard; TorchServe's own knows 1.2 only"
        return Finding(what="TLS", level=WARNING, asked=asked, found=found, meaning="no TLS 1.3", advice=advice)
    return Finding(what="TLS", level=OK, asked=asked, found=found)


def _look_at_certificate(look: Look) -> Finding:
    asked = f"the certificate of {look.server.url}, against this machine's authorities"
    what = "certificate"
    try:
        fields, reason = read_certificate(look.server, seconds=look.seconds)
    except OSError as exc:
        return Finding(what=what, level=ERROR, asked=asked, found=str(exc), advice="look at the server's TLS settings")
    if not fields:
        meaning, advice = "clients that check refuse it", "renew it"
        return Finding(what=what, level=ERROR, asked=asked, found=reason, meaning=meaning, advice=advice)
    days = (ssl.cert_time_to_seconds(str(fields["notAfter"])) - time.time()) / 86400
    found = f"valid until {fields['notAfter']}" + (f"; not trusted here: {reason}" if reason else "")
    if days < _SOON:
        meaning, advice = f"it ends in {days:.0f} days", "renew it"
    elif reason:
        meaning = "a client must be given it, or its authority, by hand; one that does not check can be deceived"
        advice = "use one of an authority that your clients know"
    else:
        return Finding(what=what, level=OK, asked=asked, found=found)
    return Finding(what=what, level=WARNING, asked=asked, found=found, meaning=meaning, advice=advice)


def _shakes_hands(address: Address, version: ssl.TLSVersion, seconds: float) -> bool:
    context = unverified_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, which are what is looked for
        context.maximum_version = version
        context.minimum_version = version
    return not _handshake_error(context, address, seconds)


def _handshake_error(context: ssl.SSLContext, address: Address, seconds: float) -> str:
    try:
        with _connect(context, address, seconds):
            return ""
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_message
    except OSError as exc:
        return str(exc) or type(exc).__name__


def _fetch_certificate(address: Address, seconds: float) -> str:
    with _connect(unverified_context(), address, seconds) as stream:
        return ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True) or b"")


def _connect(context: ssl.SSLContext, address: Address, seconds: float) -> ssl.SSLSocket:
    raw = socket.create_connection((address.ip or address.host, address.port), timeout=seconds)
    try:
        return context.wrap_socket(raw, server_hostname=address.host)
    except BaseException:
        raw.close()
        raise
