"""What is said of a log: to people, to programs, and in the document; the command around it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main
from serving.diagnosis_report import format_table
from serving.error_catalogue import known_errors
from tests.logs import CRASH_LOOP, HEALTHY

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_the_document_is_up_to_date() -> None:
    """docs/diagnosis.md lists the catalogue; the example there is what the command prints."""
    assert format_table() in (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")


def test_the_example_of_the_document_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server with one worker too many, as docs/diagnosis.md shows it."""
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    Path("logs/model_log.log").write_text(CRASH_LOOP)
    assert main(["doctor", "--log", "logs/model_log.log"]) == 1
    document = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    shown = document.partition("$ torchserve-neuron doctor --log logs/model_log.log\n")[2].partition("...\n")[0]
    assert len(shown) > 200
    assert capsys.readouterr().out.startswith(shown)


def test_nothing_found_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, and no claim that all is well."""
    log = tmp_path / "ts_log.log"
    log.write_text(HEALTHY)
    assert main(["doctor", "--log", str(log)]) == 0
    out = capsys.readouterr().out
    assert f"{log}: none of the {len(known_errors())} known errors is in its 10 lines" in out
    assert "no proof of health" in out


@pytest.mark.parametrize("name", ["missing.log", "."])
def test_a_log_that_cannot_be_read_has_a_status_of_its_own(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and the reason; nothing on standard output."""
    assert main(["doctor", "--log", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {tmp_path / name}: " in err


def test_standard_input_and_json(tmp_path: Path) -> None:
    """`-` reads a pipe, --json is for programs; both in the real command."""
    command = [sys.executable, "-m", "cli.main", "doctor", "--log", "-", "--json"]
    done = subprocess.run(command, cwd=ROOT, input=CRASH_LOOP, capture_output=True, text=True, check=False, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, found["lines"]) == (1, 8)
    assert (found["diagnoses"][0]["id"], found["diagnoses"][0]["values"]["available"]) == ("cores-taken", "0")
