"""TLS of real listeners: versions, certificates, and the wrong scheme."""

import ssl
from collections.abc import Callable

import pytest

from serving.exposure import ERROR, OK, WARNING, examine_server
from serving.exposure_asking import Address
from serving.exposure_findings import Look
from serving.exposure_tls import look_at_transport, offered_versions
from tests.certificates import make_certificate
from tests.exposed import answering, by_name, look_at


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], ssl.SSLContext]:
    """A maker of TLS servers' contexts with a certificate of their own, good for so many days."""
    folder = tmp_path_factory.mktemp("certificates")

    def make(days: int) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*make_certificate(folder, days=days))
        return context

    return make


def test_modern_tls_with_an_own_certificate(certificate: Callable[[int], ssl.SSLContext]) -> None:
    """Versions are well; nobody vouches for the certificate, and its end is told."""
    with answering({}, context=certificate(365)) as look:
        found = by_name(look_at_transport(look))
    assert (found["TLS"].level, found["TLS"].found) == (OK, "offers TLS 1.2, 1.3")
    assert found["certificate"].level == WARNING
    assert "valid until" in found["certificate"].found and "self-signed" in found["certificate"].found


def test_a_certificate_that_ends_soon_is_a_warning(certificate: Callable[[int], ssl.SSLContext]) -> None:
    """A month before."""
    with answering({}, context=certificate(5)) as look:
        assert "it ends in 5 days" in by_name(look_at_transport(look))["certificate"].meaning


def test_old_tls_is_an_error(certificate: Callable[[int], ssl.SSLContext]) -> None:
    """RFC 8996 has done with 1.0 and 1.1."""
    context = certificate(365)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with answering({}, context=context) as look:
        if "1.0" not in offered_versions(look.server, seconds=1):
            pytest.skip("this OpenSSL has no TLS 1.0 to be found")
        assert by_name(look_at_transport(look))["TLS"].level == ERROR


@pytest.mark.parametrize("secure", [True, False])
def test_the_wrong_scheme_is_named_with_the_right_one(
    certificate: Callable[[int], ssl.SSLContext], secure: bool
) -> None:
    """http:// to a port with TLS, and https:// to one without."""
    with answering({"GET /ping": (200, "")}, context=certificate(365) if secure else None) as look:
        wrong = Address("http" if secure else "https", "127.0.0.1", look.server.port, "127.0.0.1")
        (finding,) = examine_server(Look(**{**vars(look), "server": wrong}))
    assert (finding.level, finding.advice) == (ERROR, f"look at {look.server.url}")


def test_plain_http_beyond_this_machine_is_a_warning() -> None:
    """On the loopback address it is well."""
    assert look_at_transport(look_at(80, ip="192.0.2.1"))[0].level == WARNING
    assert look_at_transport(look_at(80))[0].level == OK
