"""Whole looks at servers that answer well, badly, late or not at all, what is said of them, and the command."""

import json
import socket
from collections.abc import Callable

import pytest

from cli.main import main
from serving.exposure import ERROR, OK, WARNING, Finding, examine_server
from serving.exposure_asking import Address
from serving.exposure_findings import Look
from serving.exposure_report import format_report
from serving.exposure_routes import look_at_metrics
from tests.exposed import answering, by_name, drip, hang, listening, look_at, outside_address
from tests.ports import find_free_ports

DESCRIPTION = '{"openapi": "3.0.1", "info": {"title": "TorchServe APIs", "version": "%s"}}'


@pytest.mark.parametrize(("talk", "found"), [(hang, "no answer"), (drip, "no answer")])
def test_a_server_that_hangs_is_one_error(talk: Callable[[socket.socket], None], found: str) -> None:
    """With nothing judged, and nothing called well."""
    with listening(talk) as port:
        (finding,) = examine_server(look_at(port, seconds=0.3))
    assert (finding.what, finding.level) == ("server", ERROR)
    assert found in finding.found


def test_a_server_that_is_not_there_is_one_error() -> None:
    """The advice says that nothing was judged."""
    (finding,) = examine_server(look_at(find_free_ports(1)[0]))
    assert (finding.level, finding.found) == (ERROR, "connection refused")
    assert "Nothing was judged" in finding.advice


def test_what_is_no_torchserve_is_said_to_be_none() -> None:
    """Any web server, that is."""
    with answering({"GET /ping": (200, "pong")}) as look:
        (finding,) = examine_server(look)
    assert finding.level == ERROR
    assert "this is no TorchServe" in finding.meaning


def test_a_guard_that_hides_everything_is_well() -> None:
    """Only /ping shows through: no version, no management, no metrics, and models not to be guessed."""
    with answering({"GET /ping": (200, '{"status": "Healthy"}')}) as look:
        findings = examine_server(look)
    assert {finding.level for finding in findings} == {OK}
    assert "no version shown" in by_name(findings)["version"].found


def test_a_guard_that_wants_a_key_for_a_named_model_is_well() -> None:
    """401 is what a proxy says where TorchServe says 400."""
    with answering({"POST /predictions": (401, "")}) as look:
        found = by_name(examine_server(Look(**{**vars(look), "model": "tiny"})))
    assert (found["predictions"].level, found["predictions"].meaning) == (OK, "a key is wanted")


def test_an_old_version_is_an_error() -> None:
    """With the vulnerabilities that a newer one does not have."""
    with answering({"GET /api-description": (200, DESCRIPTION % "0.8.1")}) as look:
        finding = by_name(examine_server(look))["version"]
    assert finding.level == ERROR
    assert "CVE-2023-43654" in finding.meaning


def test_a_page_of_somebody_elses_may_read_answers() -> None:
    """That is what Access-Control-Allow-Origin: * allows, and worth a warning."""

    def talk(connection: socket.socket) -> None:
        connection.recv(10_000)
        body = (DESCRIPTION % "0.12.0").encode()
        head = f"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with listening(talk) as port:
        assert by_name(examine_server(look_at(port)))["browsers"].level == WARNING


def test_a_port_that_does_not_answer_is_never_called_well() -> None:
    """Something listens on the management port and says nothing: it cannot be told."""
    with listening(hang) as silent, answering({"GET /ping": (200, '{"status": "Healthy"}')}) as look:
        base = Address("http", "127.0.0.1", silent, "127.0.0.1")
        found = by_name(examine_server(Look(**{**vars(look), "management": (base,), "seconds": 0.3})))
    assert found[f"management :{silent}"].level == WARNING


def test_metrics_beyond_this_machine_are_a_warning() -> None:
    """With what they tell; on the loopback address the same is well."""
    text = '# TYPE Requests2XX counter\nRequests2XX{Hostname="host7",} 3.0\nx{model_name="secret-model",} 1\n'
    with answering({"GET /metrics": (200, text)}, ip=outside_address()) as look:
        finding = look_at_metrics(look, look.server, "metrics")
    assert finding.level == WARNING
    assert "host7" in finding.meaning and "secret-model" in finding.meaning
    with answering({"GET /metrics": (200, text)}) as look:
        assert look_at_metrics(look, look.server, "metrics").level == OK


def test_the_report_says_what_was_asked_and_what_to_do() -> None:
    """For everything but what is well, and how many of each there are."""
    findings = [
        Finding(what="one", level=OK, asked="GET /one", found="fine"),
        Finding(what="two", level=ERROR, asked="GET /two", found="200", meaning="open to all", advice="close it"),
    ]
    text = format_report(look_at(8080), findings)
    assert "ok      one: fine" in text and "GET /one" not in text
    assert "ERROR   two: 200; open to all" in text and "GET /two" in text and "close it" in text
    assert "1 error, 0 warning, 1 ok" in text


def test_the_command_fails_over_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts: JSON, and status 1."""
    port = find_free_ports(1)[0]
    assert main(["doctor", "--server", f"http://127.0.0.1:{port}", "--json", "--seconds", "1"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["what"], finding["level"]) == ("server", "error")


def test_the_command_is_content_with_a_guard(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, and where it looked."""
    with answering({"GET /ping": (200, '{"status": "Healthy"}')}) as look:
        grpc = ",".join(map(str, look.grpc))
        assert main(["doctor", "--server", look.server.url, "--seconds", "1", "--grpc", grpc]) == 0
    assert f"{look.server.url} (the loopback address" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option",
    [["--seconds", "0"], ["--seconds", "nan"], ["--seconds", "soon"], ["--grpc", "7070"], ["--grpc", "0,1"]],
)
def test_the_command_refuses_what_it_cannot_use(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked; the message says what is expected."""
    with pytest.raises(SystemExit):
        main(["doctor", "--server", "http://127.0.0.1:1", *option])
    assert "expected" in capsys.readouterr().err


def test_the_command_says_what_is_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, one line, no traceback."""
    assert main(["doctor", "--server", "ftp://host"]) == 1
    assert "expected http://HOST:PORT" in capsys.readouterr().err
