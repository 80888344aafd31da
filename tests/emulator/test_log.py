"""The runtime's log."""

import re
from datetime import datetime

import pytest
from neuron_emulator.log import format_line, write_log

TAKEN = "NeuronCore(s) not available - Requested:nc1-nc1 Available:0"


def test_a_line_is_as_in_the_documents():
    """Contract 4.3: the example, character for character."""
    line = format_line(
        "ERROR",
        "NRT:nrt_allocate_neuron_cores",
        TAKEN,
        pid=28078,
        tid=28078,
        now=datetime(2021, 8, 27, 23, 22, 12, 323000),
    )
    assert line == (
        "2021-Aug-27 23:22:12.0323 28078:28078 ERROR   NRT:nrt_allocate_neuron_cores               "
        "NeuronCore(s) not available - Requested:nc1-nc1 Available:0"
    )


def test_lines_go_to_standard_error(capfd):
    """Contract 4.3: printed to stderr/console by the library."""
    write_log("ERROR", "NRT:nrt_init", "text")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"\d{4}-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d\.\d{4} \d+:\d+ ERROR   NRT:nrt_init +text\n", err)


@pytest.mark.parametrize(
    ("environ", "level", "written"),
    [
        ({}, "ERROR", True),
        ({}, "WARNING", False),
        ({"NEURON_RT_LOG_LEVEL": "INFO"}, "WARNING", True),
        ({"NEURON_RT_LOG_LEVEL": "INFO"}, "DEBUG", False),
        ({"NEURON_RT_LOG_LEVEL": "QUIET"}, "ERROR", False),
        ({"NEURON_RT_LOG_LEVEL": "QUIET", "NEURON_RT_LOG_LEVEL_NRT": "INFO"}, "INFO", True),
        ({"NEURON_RT_LOG_LEVEL_TDRV": "TRACE"}, "INFO", False),
        ({"NEURON_RT_LOG_LEVEL": "nonsense"}, "ERROR", True),
    ],
)
def test_the_level_can_be_set_for_all_and_for_one_module(monkeypatch, capfd, environ, level, written):
    """Contract 4.1: ERROR by default; suffix ``_TDRV``, ``_NMGR``, ``_NRT`` for one module."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    write_log(level, "NRT:nrt_init", "text")
    assert bool(capfd.readouterr().err) is written


def test_one_module_can_write_to_a_file(monkeypatch, capfd, tmp_path):
    """Contract 4.1: for ``NEURON_RT_LOG_LOCATION_<module>`` a file name is allowed."""
    monkeypatch.setenv("NEURON_RT_LOG_LOCATION_NRT", str(tmp_path / "nrt.log"))
    for text in ("one", "two"):
        write_log("ERROR", "NRT:nrt_init", text)
    assert [line.split()[-1] for line in (tmp_path / "nrt.log").read_text().splitlines()] == ["one", "two"]
    assert capfd.readouterr().err == ""


def test_the_system_log_leaves_the_console_empty(monkeypatch, capfd):
    """Contract 4.1: ``console`` or ``syslog``."""
    monkeypatch.setenv("NEURON_RT_LOG_LOCATION", "syslog")
    write_log("ERROR", "NRT:nrt_init", "text")
    assert capfd.readouterr().err == ""
