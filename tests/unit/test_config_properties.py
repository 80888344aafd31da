"""The settings that are shipped: each with its reason, on this machine only, and known to TorchServe."""

import re
import xml.etree.ElementTree as ElementTree
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from serving.server import ROOT

LINES = (ROOT / "config.properties").read_text().splitlines()
SETTINGS = dict(line.split("=", 1) for line in LINES if line and not line.startswith("#"))
LOGS = sorted((ROOT / "serving").glob("log4j2-*.xml"))
# Read by TorchServe's launcher, not by the server.
LAUNCHER_KEYS = {"vmargs"}


def open_server() -> zipfile.ZipFile:
    """Return TorchServe's own program."""
    return zipfile.ZipFile(str(distribution("torchserve").locate_file("ts/frontend/model-server.jar")))


def test_every_setting_has_its_reason() -> None:
    """A line of explanation stands before each setting, or before the group it is in."""
    for number, line in enumerate(LINES):
        if line and not line.startswith("#"):
            assert LINES[number - 1].strip(), f"{line} has nothing above it"


def test_torchserve_knows_every_setting() -> None:
    """A misspelt key would be ignored without a word."""
    with open_server() as jar:
        code = jar.read("org/pytorch/serve/util/ConfigManager.class")
    assert [key for key in SETTINGS if key not in LAUNCHER_KEYS and key.encode() not in code] == []


def test_no_setting_stands_twice() -> None:
    """The second would win silently."""
    assert len(SETTINGS) == sum(bool(line) and not line.startswith("#") for line in LINES)


def test_everything_listens_on_the_loopback_only() -> None:
    """The three addresses and both of gRPC's."""
    addresses = {key: value for key, value in SETTINGS.items() if key.endswith("_address")}
    assert len(addresses) == 5
    assert all(re.fullmatch(r"(http://)?127\.0\.0\.1(:\d+)?", value) for value in addresses.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("load_models", "all"),
        ("model_store", "model_store"),
        ("enable_envvars_config", "true"),
        ("enable_model_api", "false"),
        ("install_py_dep_per_model", "false"),
        ("decode_input_request", "false"),
        ("disable_token_authorization", "true"),
        ("metrics_mode", "prometheus"),
        ("model_metrics_auto_detect", "true"),
        ("disable_system_metrics", "true"),
    ],
)
def test_what_the_rest_of_the_kit_relies_on(key: str, value: str) -> None:
    """A setting that was changed in passing is noticed."""
    assert SETTINGS[key] == value


def test_requests_too_large_are_refused_by_the_handler_first() -> None:
    """The handler's 413 has a reason, TorchServe's an empty body; 8 MiB in base64 has to come through."""
    assert int(SETTINGS["max_request_size"]) > 8 * 2**20 * 4 / 3 + 10_000


@pytest.mark.parametrize(
    "url", ["http://example.com/a.mar", "https://example.com/a.mar", "file:///etc/a.mar", "file:///x/model_store/a.mar"]
)
def test_archives_come_from_no_url(url: str) -> None:
    """Names of files in the store need no pattern, and no URL matches one."""
    assert not any(re.fullmatch(pattern, url) for pattern in SETTINGS["allowed_urls"].split(","))


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DB_PASSWORD", "GOOGLE_APPLICATION_CREDENTIALS", "MY_SECRET"]
)
def test_secrets_are_kept_from_workers(name: str) -> None:
    """Workers run the archive's code."""
    assert re.fullmatch(SETTINGS["blacklist_env_vars"], name)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "TORCHSERVE_NEURON_LEASES", "NEURON_RT_NUM_CORES", "TOKENIZERS_PARALLELISM"]
)
def test_what_workers_need_is_left_to_them(name: str) -> None:
    """A pattern that took too much would break them."""
    assert not re.fullmatch(SETTINGS["blacklist_env_vars"], name)


def test_the_jvm_is_bound_and_logs_as_shipped() -> None:
    """The heap has a limit, and the file of log settings is there under its path from the repository's root."""
    assert "-Xmx" in SETTINGS["vmargs"]
    (file,) = re.findall(r"-Dlog4j\.configurationFile=(\S+)", SETTINGS["vmargs"])
    assert (ROOT / file).is_file()


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_logs_rotate_within_a_bound(file: Path) -> None:
    """Every appender is a rolling file of at most 10 MB with at most three older ones."""
    (appenders,) = ElementTree.parse(file).getroot().iter("Appenders")
    assert {appender.tag for appender in appenders} == {"RollingFile"}
    for appender in appenders:
        assert [each.get("size") for each in appender.iter("SizeBasedTriggeringPolicy")] == ["10 MB"]
        assert [int(each.get("max", 99)) <= 3 for each in appender.iter("DefaultRolloverStrategy")] == [True]


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_every_logger_of_torchserve_is_named(file: Path) -> None:
    """One that is left out would follow TorchServe's own habit of writing each line twice."""
    with open_server() as jar:
        shipped = ElementTree.fromstring(jar.read("log4j2.xml"))
    ours = ElementTree.parse(file).getroot()
    names = {logger.get("name") for logger in shipped.iter("Logger")} - {"org.apache"}
    assert names <= {logger.get("name") for logger in ours.iter("Logger")}


def read_filter() -> re.Pattern[str]:
    """Return which lines of a worker's standard output count as warnings."""
    root = ElementTree.parse(ROOT / "serving" / "log4j2-warn.xml").getroot()
    (workers,) = [each for each in root.iter("RollingFile") if each.get("name") == "workers"]
    (found,) = workers.iter("RegexFilter")
    return re.compile(str(found.get("regex")))


@pytest.mark.parametrize(
    "line",
    [
        "Backend worker process died.",
        "Traceback (most recent call last):",
        '  File "handler.py", line 3, in initialize',
        "KeyError: 'no such weights'",
        "torch.OutOfMemoryError: CUDA out of memory",
        "SystemExit: 1",
    ],
)
def test_why_a_worker_died_is_logged(line: str) -> None:
    """TorchServe takes tracebacks for information, because workers print them on their standard output."""
    assert read_filter().fullmatch(line)


@pytest.mark.parametrize(
    "line", ["Backend received inference at: 1795230166", "Torch worker started.", "model_name: tiny"]
)
def test_what_workers_say_in_passing_is_not_logged(line: str) -> None:
    """An ordinary request writes nothing."""
    assert not read_filter().fullmatch(line)
