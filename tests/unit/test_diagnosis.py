"""Known errors of Neuron and TorchServe are found in logs and exceptions, and explained."""

import io
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from serving.diagnosis import Diagnosis, explain_error, find_mark, read_log
from serving.diagnosis_report import format_report
from serving.error_catalogue import CONFIDENCES, STAGES, KnownError, known_errors
from tests.logs import CRASH_LOOP, HEALTHY

ROOT = Path(__file__).resolve().parents[2]
PREFIXES = {
    "bare": "",
    "worker's log": "2026-11-21T03:29:24,565 [INFO ] W-9000-bert_1.0-stdout MODEL_LOG - ",
    "server's log": "2026-11-21 03:29:24,565 [WARN ] W-9001-bert_1.0 org.pytorch.serve.wlm.WorkerThread - ",
    "container": '{"log":"\\u001b[0m2026-11-21T03:29:24,565 [INFO ] W-9000-bert_1.0-stderr MODEL_LOG - ',
}


def named(entries: tuple[KnownError, ...]) -> list[object]:
    """The entries as parameters with their ids."""
    return [pytest.param(entry, id=entry.id) for entry in entries]


def find(text: str) -> Diagnosis:
    """Return the one diagnosis of a text."""
    (diagnosis,) = explain_error(text)
    return diagnosis


@pytest.mark.parametrize("entry", named(known_errors()))
def test_each_sample_is_found_as_its_own_entry_only(entry: KnownError) -> None:
    """Behind every usual prefix, once, and by no other entry of the catalogue."""
    for prefix in PREFIXES.values():
        lines = [prefix + line for line in entry.sample.splitlines()]
        assert [(each.id, each.count) for each in explain_error("\n".join(lines))] == [(entry.id, 1)]


@pytest.mark.parametrize("entry", named(known_errors()))
def test_each_entry_is_complete(entry: KnownError) -> None:
    """All texts are there, stage and confidence are known, and each value of a text has its group in a pattern."""
    assert all([entry.cause, entry.check, entry.remedy, entry.source])
    assert (entry.stage in STAGES, entry.confidence in CONFIDENCES) == (True, True)
    groups = {name for pattern in entry.patterns for name in pattern.groupindex} | {"count"}
    assert set(re.findall(r"\{(\w+)\}", entry.cause + entry.check + entry.remedy)) <= groups
    assert "unknown" not in find(entry.sample).cause


def test_the_emulators_own_words_are_called_unconfirmed() -> None:
    """Nobody may take the emulator's wording for AWS's."""
    own = [entry for entry in known_errors() if "emulator" in entry.source]
    assert len(own) > 5
    assert {entry.confidence for entry in own} == {"unconfirmed"}
    assert "UNCONFIRMED" in format_report("log", read_log(io.BytesIO(own[0].sample.encode())))


@pytest.mark.parametrize(
    ("text", "id_", "part"),
    [
        ("NeuronCore(s) not available - Requested:nc1-nc1 Available:0", "cores-taken", "requested: nc1-nc1, free: 0"),
        ("Logical Neuron Core(s) not available - Requested:32 Available:2", "cores-taken", "requested: 32, free: 2"),
        (
            "Incorrect tensor shape at input #1: received [1, 64], expected [1, 128]",
            "input-shape",
            "Input 1 had shape [1, 64], and the model was compiled for [1, 128]",
        ),
        ("Incorrect tensor shape at input #0: received 4 3, expected 1", "input-shape", "compiled for 1;"),
        ("NEFF version mismatch supported: 1.1 received: 2.0", "neff-version", "version 2.0 of the binary format"),
        ("Unknown builtin op: neuron::forward_v2_3.", "import-missing", "neuron::forward_v2_3"),
        ("inference timeout (600000 ms) on Neuron Device 0 NC 0", "execution-timeout", "600000 ms"),
        ("before = 9, compiled = 3, percent compiled = 33.33%", "little-compiled", "Only 33.33 %"),
        ("[NCC_EVRF001] Operator foo", "ncc-evrf001", "an operator is not supported"),
        ("[INTERNAL_ERROR] [NCC_ITEN406] Too many", "ncc-other", "with code ITEN406"),
        ("RuntimeError: neuronx-cc failed with -9", "neuronx-cc-failed", "status -9"),
    ],
)
def test_values_of_the_message_stand_in_the_text(text: str, id_: str, part: str) -> None:
    """Contract 4.6, 10: cores, shapes, versions and codes are told, not only that something was wrong."""
    diagnosis = find(text)
    assert diagnosis.id == id_
    assert part in diagnosis.cause


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Could not load the model status=4 message=Allocation Failure", 4),
        ("Could not load the model status=2 message=Invalid", 2),
        ("Failed to execute the model status=5 message=Timeout Exceeded", 5),
        ("Failed to execute the model status=1003 message=Numerical Error", 1003),
        ("Failed to execute the model status=1006 message=Execution Out-Of-Bounds Memory Access", 1006),
        ("NMGR:dlr_infer    Inference completed with err: 1006. mode->h_nn=1001, start_nc=0, nc_count=1", 1006),
        ("NMGR:kmgr_load_nn_post_metrics   Failed to load NN: model.neff, err: 2", 2),
        ("NRT:nrt_infodump   Failure: NRT_EXEC_SW_NQ_OVERFLOW in nrt_execute()", 1204),
        ("exited with NRT_EXEC_HW_ERR_NC_UE (1202)", 1202),
    ],
)
def test_statuses_are_found_by_number_and_by_name(text: str, number: int) -> None:
    """Contract 4.4, 4.5: in exceptions, in log lines and by name; 5 is not found in 1005, nor 2 in 1002."""
    assert [each.id for each in explain_error(text)] == [f"status-{number}"]


def test_all_statuses_of_the_runtime_are_known() -> None:
    """Contract 4.5 lists the codes of nrt_status.h."""
    numbers = [*range(1, 8), 9, 10, 11, 13, 14, 15, 101, *range(1002, 1007), 1100, *range(1200, 1207)]
    known = [entry.id for entry in known_errors() if entry.id.startswith("status-")]
    assert sorted(known) == sorted(f"status-{number}" for number in numbers)


def test_the_cause_stands_before_what_follows_from_it() -> None:
    """Cores taken, then the runtime's failure, then the worker's; the line order is another."""
    diagnoses = read_log(io.BytesIO(CRASH_LOOP.encode())).diagnoses
    expected = ["cores-taken", "runtime-not-started", "worker-exception", "worker-crash-loop"]
    assert [each.id for each in diagnoses] == expected
    assert [each.line for each in diagnoses] == [2, 4, 3, 7]


def test_equal_errors_are_one_finding_with_their_number() -> None:
    """The count is in the text where it says something: how often workers died."""
    (loop,) = [each for each in explain_error(CRASH_LOOP) if each.id == "worker-crash-loop"]
    assert (loop.count, loop.values["model"]) == (2, "bert")
    assert "2 times in this log" in loop.cause


def test_different_values_of_one_error_are_kept() -> None:
    """The first set is in the text, at most four others beside it; all are counted."""
    lines = [f"Incorrect tensor shape at input #0: received [{size}], expected [9]" for size in (1, 2, 1, 3, 4, 5, 6)]
    diagnosis = find("\n".join(lines))
    assert (diagnosis.count, diagnosis.values["received"]) == (7, "[1]")
    assert [each["received"] for each in diagnosis.others] == ["[2]", "[3]", "[4]", "[5]"]


def test_an_ordinary_log_yields_nothing() -> None:
    """A healthy start with its harmless warnings, a full compilation and requests hold no known error."""
    report = read_log(io.BytesIO(HEALTHY.encode()))
    assert (report.lines, report.diagnoses) == (10, [])


def read_measured(log: Path) -> tuple[int, list[Diagnosis], int]:
    """Return the lines, the diagnoses and the largest memory in use, in bytes, while a log was read."""
    explain_error("reads the catalogue")
    tracemalloc.start()
    with log.open("rb") as stream:
        report = read_log(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return report.lines, report.diagnoses, peak


def test_a_large_log_is_read_as_a_stream(tmp_path: Path) -> None:
    """60 MB take a few; two findings far apart are one, whose line is numbered rightly."""
    log = tmp_path / "ts_log.log"
    quiet = b"2026-11-21T03:29:22,698 [INFO ] ACCESS_LOG - GET /models/bert HTTP/1.1 200 8\n" * 380_000
    fault = b"Failed to execute the model status=5 message=Timeout Exceeded\n"
    log.write_bytes(quiet + fault + quiet + fault)
    assert log.stat().st_size > 55 << 20
    lines, (diagnosis,), peak = read_measured(log)
    assert (diagnosis.id, diagnosis.count, diagnosis.line, lines) == ("status-5", 2, 380_001, 760_002)
    assert peak < 10 << 20


def test_a_line_of_megabytes_is_cut(tmp_path: Path) -> None:
    """Its beginning is looked at, the rest is not kept, and the lines after it count on."""
    log = tmp_path / "ts_log.log"
    long = b"Unknown builtin op: neuron::forward_1." + b"x" * (30 << 20) + b"No neuron device available\n"
    log.write_bytes(long + b"Failed to execute the model status=6 message=Hardware Error")
    lines, diagnoses, peak = read_measured(log)
    assert [(each.id, each.line) for each in diagnoses] == [("status-6", 2), ("import-missing", 1)]
    assert (lines, peak < 10 << 20) == (2, True)


def test_bytes_that_are_no_text_do_no_harm() -> None:
    """Nor do carriage returns or a message without an end of line."""
    log = b"\xff\xfe\x00 rubbish\r\nERROR \x80 No neuron device available \xf0\x9f\r\nlast"
    report = read_log(io.BytesIO(log))
    assert (report.lines, [(each.id, each.line) for each in report.diagnoses]) == (3, [("no-device", 2)])


def test_a_log_cannot_write_over_the_terminal() -> None:
    """Control characters of a line reach neither the excerpt nor the values."""
    diagnosis = find("\x1b[2J\x07cannot serve: tiny.pt\x1b[31m is broken")
    assert "\x1b" not in diagnosis.excerpt + diagnosis.cause
    assert "tiny.pt" in diagnosis.cause


@pytest.mark.parametrize(
    ("pattern", "mark"),
    [
        (r"(?:Logical )?Core\(s\) lost: (?P<left>\d+) left", "Core(s) lost: "),
        (r"colou?rs of", "rs of"),
        (r"\bNRT_TIMEOUT\b", "NRT_TIMEOUT"),
        (r"ab[c|d]{2,3}efgh+", "efg"),
    ],
)
def test_the_mark_is_in_every_match(pattern: str, mark: str) -> None:
    """What may be missing or vary is no part of it."""
    if len(mark) < 4:
        with pytest.raises(ValueError, match="no fixed run"):
            find_mark(pattern)
    else:
        assert find_mark(pattern) == mark


def test_a_pattern_with_alternatives_is_refused() -> None:
    """No run would be in every match; the message says how to write it."""
    with pytest.raises(ValueError, match="patterns of their own"):
        find_mark("first thing|second thing")


def test_explaining_imports_no_torch() -> None:
    """A worker's message and the command line stay quick."""
    code = (
        "import sys; from serving.diagnosis import explain_error; explain_error('x'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_what_the_emulator_says_is_known() -> None:
    """Each text of its runtime is explained, so that what is met there is met prepared."""
    code = """
from neuron_emulator import messages as m
lines = [m.DRIVER_MISSING, m.DRIVER_OLD, m.NO_DEVICE, m.NOT_CONTIGUOUS, m.FORKED]
lines += [m.cores_taken("2", 1, family=f) for f in ("inf1", "inf2")] + [m.missing_core(4), m.failed_load("a", 2)]
lines += [m.bad_setting("NEURON_RT_NUM_CORES", "x", "a number"), m.wrong_family("a", "inf1", "inf2")]
lines += [m.memory_exhausted(0, 1, 1 << 30), *m.timed_out(30, 0, 1), m.completed_with(1003)]
texts = [line.place + " " + line.text for line in lines] + [m.CANNOT_START.replace("\\n", " ")]
texts += [m.pool_exhausted(0, 0, total=9, occupied=8, needed=2)]
texts += [str(make(code)) for make in (m.load_error, m.execute_error) for code in m.STATUS_TEXTS]
print("\\n".join(texts))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "emulator", check=True, capture_output=True, text=True
    )
    assert [text for text in done.stdout.splitlines() if not explain_error(text)] == []
