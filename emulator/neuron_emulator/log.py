"""The runtime's log: lines on standard error, as the library writes them beside the exceptions it raises."""

import os
import syslog
import threading
from datetime import datetime

# AWS Neuron docs: neuron-runtime/guides/configuration-guide.rst. QUIET is named by some pages only.
LEVELS = ("QUIET", "ERROR", "WARNING", "INFO", "DEBUG", "TRACE")
LEVEL_VARIABLE = "NEURON_RT_LOG_LEVEL"
LOCATION_VARIABLE = "NEURON_RT_LOG_LOCATION"
_STANDARD_ERROR = 2  # the descriptor: a library in C knows nothing of sys.stderr


def format_line(level: str, place: str, message: str, *, pid: int, tid: int, now: datetime) -> str:
    """Return one line of the log, for example (AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst)::

        2021-Aug-27 23:22:12.0323 28078:28078 ERROR   NRT:nrt_allocate_neuron_cores               NeuronCore(s) not ...

    ``place`` is module and function, ``NRT:nrt_init``.
    """
    # The examples show four digits behind the second; taken for milliseconds.
    stamp = f"{now:%Y-%b-%d %H:%M:%S}.{now.microsecond // 1000:04d}"
    return f"{stamp} {pid}:{tid} {level:<7} {place:<43} {message}"


def write_log(level: str, place: str, message: str) -> None:
    """Write one line where ``NEURON_RT_LOG_LOCATION`` says (console by default) if its level is wanted."""
    module = place.partition(":")[0]
    wanted = _read_setting(LEVEL_VARIABLE, module, "ERROR").upper()
    if LEVELS.index(level) > (LEVELS.index(wanted) if wanted in LEVELS else 1):
        return
    line = format_line(
        level, place, message, pid=os.getpid(), tid=threading.get_native_id(), now=datetime.now().astimezone()
    )
    _write_line(line, _read_setting(LOCATION_VARIABLE, module, "console"))


def write_kernel_line(message: str) -> None:
    """Write what the real driver writes to the kernel's log; the emulator has none, so it goes to standard error."""
    _write_line(message, "console")


def _read_setting(variable: str, module: str, default: str) -> str:
    return os.environ.get(f"{variable}_{module}") or os.environ.get(variable) or default


def _write_line(line: str, location: str) -> None:
    if location == "syslog":
        syslog.syslog(line)
        return
    content = f"{line}\n".encode()
    if location == "console":
        os.write(_STANDARD_ERROR, content)
        return
    # The documents allow a file's name for the setting of one module.
    descriptor = os.open(location, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
