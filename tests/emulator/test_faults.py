"""Faults on demand: what a program sees of them."""

import pytest
from neuron_emulator.runtime import Need, describe_host, get_runtime

NEED = Need("net", "inf1", cores=1, bytes_per_core=0)
TRAFFIC = {"bytes_in": 4, "bytes_out": 8, "items": 3, "padded": 1}


@pytest.mark.parametrize(
    ("fault", "message", "log", "outcome"),
    [
        ("timeout", "status=5 message=Timeout Exceeded", "NMGR:dlr_infer", "timed_out"),
        ("nan", "status=1003 message=Numerical Error", "INFER_ERROR_SUBTYPE_NUMERICAL", "completed_with_num_err"),
        ("oob", "status=1006 message=Execution Out-Of-Bounds Memory Access", "err: 1006", "completed_with_err"),
        ("hw", "status=6 message=Hardware Error", "err: 6", "completed_with_err"),
    ],
)
def test_faults_of_an_execution_can_be_injected(monkeypatch, capfd, fault, message, log, outcome):
    """Contract 4.4, 11: ``Failed to execute the model status=<n> message=<text>``."""
    runtime = get_runtime()
    [copy] = runtime.load(NEED)
    monkeypatch.setenv("NEURON_EMULATOR_FAULT", fault)
    with pytest.raises(RuntimeError) as caught:
        runtime.execute(copy, lambda: None, **TRAFFIC)
    assert str(caught.value) == f"Failed to execute the model {message}"
    assert log in capfd.readouterr().err
    assert describe_host()["processes"][0]["outcomes"] == {outcome: 1}


def test_a_timeout_is_logged_with_the_device_and_the_limit(monkeypatch, capfd):
    """Contract 4.1, 4.6: ``inference timeout (600000 ms) on Neuron Device 0 NC 0, waiting for ...``, then err: 5."""
    monkeypatch.setenv("NEURON_RT_EXEC_TIMEOUT", "600")
    monkeypatch.setenv("NEURON_EMULATOR_FAULT", "timeout")
    runtime = get_runtime()
    with pytest.raises(RuntimeError):
        runtime.execute(runtime.load(NEED)[0], lambda: None, **TRAFFIC)
    log = capfd.readouterr().err
    assert (
        "(FATAL-RT-UNDEFINED-STATE) inference timeout (600000 ms) on Neuron Device 0 NC 0, "
        "waiting for execution completion notification\n"
    ) in log
    assert log.endswith("Inference completed with err: 5\n")


def test_memory_can_be_made_to_run_out(monkeypatch):
    """Contract 11: failure injection (OOM)."""
    monkeypatch.setenv("NEURON_EMULATOR_FAULT", "oom")
    with pytest.raises(RuntimeError, match="status=4 message=Allocation Failure"):
        get_runtime().load(NEED)


@pytest.mark.parametrize(
    ("environ", "log"),
    [
        ({"NEURON_EMULATOR_INSTANCE": ""}, "TDRV:tdrv_get_dev_info                      No neuron device available"),
        (
            {"NEURON_EMULATOR_FAULT": "driver-missing"},
            "NRT:nrt_init                                Unable to determine Neuron Driver version. "
            "Please check aws-neuron-dkms package is installed.",
        ),
        (
            {"NEURON_EMULATOR_FAULT": "driver-old"},
            "This runtime requires Neuron Driver version 2.0 or greater. Please upgrade aws-neuron-dkms package.",
        ),
        ({"NEURON_EMULATOR_DRIVER_VERSION": "1.5"}, "This runtime requires Neuron Driver version 2.0 or greater."),
        ({"NEURON_EMULATOR_DRIVER_VERSION": "2.25.1"}, "No neuron device available"),
    ],
)
def test_a_host_without_device_or_driver_does_not_start(monkeypatch, capfd, environ, log):
    """Contract 4.4, 4.6, trap 22: the exception is one, the reason is in the log; inf1 needs a driver up to 2.24."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"The PyTorch Neuron Runtime could not be initialized\."):
        get_runtime()
    assert log in capfd.readouterr().err


@pytest.mark.parametrize(
    ("instance", "version"), [("inf1.xlarge", "2.24.13.0"), ("inf2.xlarge", "2.26"), ("inf1.xlarge", "2")]
)
def test_a_suitable_driver_starts(monkeypatch, instance, version):
    """Contract 0.4: the last driver for inf1 is 2.24; inf2 has no such end."""
    monkeypatch.setenv("NEURON_EMULATOR_INSTANCE", instance)
    monkeypatch.setenv("NEURON_EMULATOR_DRIVER_VERSION", version)
    assert get_runtime().cores
