"""What the runtime says when something fails: log lines and exceptions, in one place.

Texts are AWS's own, from documents and public tracebacks, unless a comment calls them the emulator's.
"""

from dataclasses import dataclass

# Public tracebacks of torch-neuron (issues 718 and 453 of aws-neuron-sdk).
CANNOT_START = (
    "The PyTorch Neuron Runtime could not be initialized. Neuron Driver issues are logged\n"
    "to your system logs. See the Neuron Runtime's troubleshooting guide for help on this\n"
    "topic: https://awsdocs-neuron.readthedocs-hosted.com/en/latest/"
)

# AWS Neuron docs: src/libnrt/include/nrt/nrt_status.h gives the numbers. The texts of 2, 4, 5, 1003 and 1006 are from
# public tracebacks; the others are the emulator's.
STATUS_TEXTS = {
    1: "Failure",
    2: "Invalid",
    3: "Invalid Handle",
    4: "Allocation Failure",
    5: "Timeout Exceeded",
    6: "Hardware Error",
    9: "Not Enough NeuronCores",
    13: "Uninitialized",
    14: "Closed",
    1003: "Numerical Error",
    1006: "Execution Out-Of-Bounds Memory Access",
}


@dataclass(frozen=True)
class LogLine:
    """A line of the runtime's log: which function said what."""

    place: str  # module and function, "NRT:nrt_init"
    text: str


class StartFault(Exception):
    """The runtime cannot start; carries the line for the log."""

    def __init__(self, line: LogLine) -> None:
        super().__init__(f"{line.place} {line.text}")
        self.line = line


# AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst.
DRIVER_MISSING = LogLine(
    "NRT:nrt_init",
    "Unable to determine Neuron Driver version. Please check aws-neuron-dkms package is installed.",
)
DRIVER_OLD = LogLine(
    "NRT:nrt_init",
    "This runtime requires Neuron Driver version 2.0 or greater. Please upgrade aws-neuron-dkms package.",
)
# AWS Neuron docs: deploy/troubleshooting.rst.
NO_DEVICE = LogLine("TDRV:tdrv_get_dev_info", "No neuron device available")
NOT_CONTIGUOUS = LogLine("NRT:nrt_allocate_neuron_cores", "Neuron cores are not contiguous")
# A public traceback (issue 1083 of aws-neuron-sdk).
FORKED = LogLine("NRT:nrt_allocate_tensor_set", "Incompatible runtime state: NRT_STATE_CHILD")


def cores_taken(requested: str, available: int, *, family: str) -> LogLine:
    """Return the line for cores that other processes own; ``requested`` is ``nc1-nc1`` or a number.

    AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst; later runtimes, those of inf2 and after, put "Logical" first.
    """
    kind = "NeuronCore(s)" if family == "inf1" else "Logical Neuron Core(s)"
    return LogLine(
        "NRT:nrt_allocate_neuron_cores", f"{kind} not available - Requested:{requested} Available:{available}"
    )


def bad_setting(variable: str, value: str, expected: str) -> LogLine:
    """Return the line for a variable that cannot be read; the emulator's text."""
    return LogLine("NRT:nrt_init", f"Cannot read {variable}={value!r}: expected {expected}")


def missing_core(number: int) -> LogLine:
    """Return the line for a model of too many cores (AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst)."""
    return LogLine("TDRV:db_vtpb_get_mla_and_tpb", f"Could not find VNC id {number}")


def failed_load(name: str, code: int) -> LogLine:
    """Return the line that follows each failed load (AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst)."""
    return LogLine("NMGR:kmgr_load_nn_post_metrics", f"Failed to load NN: {name}, err: {code}")


def wrong_family(name: str, made_for: str, host: str) -> LogLine:
    """Return the line for an artefact of another generation of chips; the emulator's text."""
    return LogLine(
        "NMGR:kmgr_load_nn_post_metrics",
        f"{name} was compiled for {made_for} and this host is {host}: compile it for {host}",
    )


def pool_exhausted(chip: int, core: int, *, total: int, occupied: int, needed: int) -> str:
    """Return the kernel's line for a full device, inf1 (AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst)."""
    available = total - occupied
    return (
        f"neuron:mc_alloc: device mempool [{chip}:{core}] total {total} occupied {occupied} needed {needed} "
        f"available {available}"
    )


def memory_exhausted(chip: int, core: int, needed: int) -> LogLine:
    """Return the line for a full device, inf2 and later (AWS Neuron docs: neuron-runtime/explore/device-memory.rst).

    The document does not show the function's name; this one is the emulator's.
    """
    return LogLine(
        "TDRV:dmem_alloc",
        f"Failed to allocate {needed / (1 << 30):.3f}GB (alignment: none, usage: tensors) on ND {chip}:NC {core}",
    )


def timed_out(seconds: int, chip: int, core: int) -> list[LogLine]:
    """Return the lines for an execution that took too long (AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst)."""
    return [
        LogLine(
            "TDRV:exec_request_process_errors",  # the function's name is the emulator's
            f"(FATAL-RT-UNDEFINED-STATE) inference timeout ({seconds * 1000} ms) on Neuron Device {chip} NC {core}, "
            "waiting for execution completion notification",
        ),
        completed_with(5),
    ]


def completed_with(code: int) -> LogLine:
    """Return the line for an execution that failed (AWS Neuron docs: neuron-runtime/nrt-troubleshoot.rst)."""
    detail = " (INFER_ERROR_SUBTYPE_NUMERICAL)" if code == 1003 else ""
    return LogLine("NMGR:dlr_infer", f"Inference completed with err: {code}{detail}")


def load_error(code: int) -> RuntimeError:
    """Return the exception for a load that failed with a status of NRT."""
    return RuntimeError(f"Could not load the model status={code} message={STATUS_TEXTS[code]}")


def execute_error(code: int) -> RuntimeError:
    """Return the exception for an execution that failed with a status of NRT."""
    return RuntimeError(f"Failed to execute the model status={code} message={STATUS_TEXTS[code]}")
