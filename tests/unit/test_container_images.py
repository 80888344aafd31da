"""Container images: the list of bases, the choice of an engine, the build's command, what the Dockerfiles promise."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving import images
from serving.images import DOCKER, Build, ImageFault
from tests.servers import ROOT

BASES = images.read_bases()
SERVING = ("cpu", "inf1", "inf2")
DOCKERFILES = (*SERVING, "tracing")
_KNOWN = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN STOPSIGNAL USER WORKDIR"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def _instructions(target: str) -> list[tuple[str, str]]:
    """Return (instruction, rest) of a Dockerfile, comments away and continued lines joined."""
    text = (DOCKER / f"{target}.Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def _rest(target: str, instruction: str) -> list[str]:
    return [rest for word, rest in _instructions(target) if word == instruction]


# --- The list of bases ---


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_a_base_is_pinned_and_has_a_source(base: images.BaseImage) -> None:
    """Every base names its registry and a tag that is no moving `latest`, and where that was read."""
    assert re.fullmatch(r"[a-z0-9.]+\.[a-z]+/[a-z0-9._/-]+:[a-z0-9._-]+", base.image)
    assert not base.image.endswith(":latest")
    assert base.source.startswith("https://")


def test_the_tags_say_what_the_list_says() -> None:
    """The versions of SDK, torch and Python stand in AWS's tags too."""
    for base in BASES:
        if base.sdk:
            python = f"py{base.python.replace('.', '')}"
            assert all(part in base.image for part in (f"sdk{base.sdk}", f":{base.torch}-", python)), base.name


@pytest.mark.parametrize("target", SERVING)
def test_a_dockerfile_builds_on_the_first_base_of_its_target(target: str) -> None:
    """`docker build` without arguments takes what `make image` takes."""
    assert _rest(target, "ARG")[0] == f"BASE={images.choose_base(target, '', BASES)}"


@pytest.mark.parametrize(
    ("target", "asked", "expected"),
    [
        ("cpu", "", "docker.io/library/python:3.11-slim-bookworm"),
        ("inf2", "inf2-sdk2.26.1", ":2.8.0-neuronx-py311-sdk2.26.1-ubuntu22.04"),
        ("cpu", "registry.example/own:1", "registry.example/own:1"),
    ],
)
def test_a_base_is_chosen(target: str, asked: str, expected: str) -> None:
    """Nothing is the default, a listed name its image, anything else an image."""
    assert images.choose_base(target, asked, BASES).endswith(expected)


@pytest.mark.parametrize(
    ("target", "asked", "message"),
    [
        ("tpu", "", "there is no image for 'tpu', only for cpu, inf1, inf2"),
        ("inf1", "inf2-sdk2.31.1", "inf2-sdk2.31.1 is a base for inf2, not for inf1"),
    ],
)
def test_a_wrong_base_is_refused(target: str, asked: str, message: str) -> None:
    """The message names what was asked for and what there is."""
    with pytest.raises(ImageFault, match=re.escape(message)):
        images.choose_base(target, asked, BASES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"images": [{"name": "x"}]}', "x lacks or has too much: image"),
        ("[]", "cannot be read"),
    ],
)
def test_a_broken_list_is_refused(tmp_path: Path, content: str, message: str) -> None:
    """A list of another form is said to be one."""
    (tmp_path / "images.json").write_text(content)
    with pytest.raises(ImageFault, match=message):
        images.read_bases(tmp_path / "images.json")


# --- Engine and command ---


def _engine(folder: Path, name: str, status: int) -> None:
    (folder / name).write_text(f"#!/bin/sh\nexit {status}\n")
    (folder / name).chmod(0o755)


def test_the_first_engine_that_works_is_taken(tmp_path: Path) -> None:
    """docker without its daemon is passed over."""
    _engine(tmp_path, "docker", 1)
    _engine(tmp_path, "buildah", 0)
    assert images.find_engine(path=str(tmp_path)) == "buildah"


def test_without_an_engine_all_that_was_tried_is_named(tmp_path: Path) -> None:
    """The message has the reason for each, and what to install."""
    _engine(tmp_path, "docker", 1)
    with pytest.raises(ImageFault, match=r"podman is not installed; `docker info` fails .*apt install podman"):
        images.find_engine(path=str(tmp_path))


def test_an_unknown_engine_is_refused() -> None:
    """Only three are known."""
    with pytest.raises(ImageFault, match="'kaniko' is not known; expected podman, docker, buildah"):
        images.find_engine("kaniko")


BUILD = Build(target="cpu", base="b:1", tag="t:1", packages=("x==1", "y==2"), revision="abc", options=("--no-cache",))


def test_the_command_names_all_that_was_asked_for(tmp_path: Path) -> None:
    """Base, packages, revision, tag and the engine's own options are in the command; the context is last."""
    command = images.compose_command("docker", BUILD, tmp_path, {})
    assert command[:2] == ["docker", "build"]
    assert command[-2:] == ["--no-cache", str(tmp_path)]
    assert {"BASE=b:1", "PACKAGES=x==1 y==2", "REVISION=abc", "t:1"} <= set(command)


@pytest.mark.parametrize(("engine", "expected"), [("podman", True), ("buildah", True), ("docker", False)])
def test_the_format_that_knows_health_is_asked_for(tmp_path: Path, engine: str, expected: bool) -> None:
    """podman and buildah write OCI's format by default, which has no HEALTHCHECK; docker knows no such option."""
    assert ("--format" in images.compose_command(engine, BUILD, tmp_path, {})) is expected


def test_the_password_of_an_index_is_not_in_the_command(tmp_path: Path) -> None:
    """pip's settings go by name: a process list shows no value, and what is not set does not go at all."""
    environment = {"PIP_INDEX_URL": "https://user:secret@index.example/simple", "PIP_EXTRA_INDEX_URL": ""}
    command = images.compose_command("podman", BUILD, tmp_path, environment)
    assert "PIP_INDEX_URL" in command
    assert "PIP_EXTRA_INDEX_URL" not in command
    assert not any("secret" in word for word in command)


# --- The context ---


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A small docker folder."""
    folder = tmp_path / "docker"
    for part in ("entrypoint", "guard", "models", "wheels"):
        (folder / part).mkdir(parents=True)
        (folder / part / "kept").write_text(part)
    (folder / "cpu.Dockerfile").write_text("FROM x\n")
    (folder / "requirements.txt").write_text("torch\n")
    (folder / "models" / "old.mar").write_text("left behind")
    (folder / "entrypoint" / "__pycache__").mkdir()
    return folder


def test_the_context_holds_the_models_that_were_asked_for(docker: Path, tmp_path: Path) -> None:
    """Archives with their signatures go along; what lay about does not."""
    archive = tmp_path / "tiny.mar"
    archive.write_text("archive")
    (tmp_path / "tiny.mar.sig").write_text("signature")
    with images.stage_context("cpu", [archive], docker=docker) as context:
        assert sorted(path.name for path in (context / "models").iterdir()) == ["kept", "tiny.mar", "tiny.mar.sig"]
        assert not (context / "entrypoint" / "__pycache__").exists()
    assert not context.exists()


def test_the_image_can_read_what_only_its_builder_could(docker: Path) -> None:
    """Files and folders of a clone made under a strict umask are readable for the image's user."""
    (docker / "entrypoint" / "kept").chmod(0o600)
    (docker / "entrypoint").chmod(0o700)
    with images.stage_context("cpu", docker=docker) as context:
        modes = [path.stat().st_mode & 0o777 for path in (context / "entrypoint", context / "entrypoint" / "kept")]
    assert modes == [0o755, 0o644]


def test_wheels_go_along(docker: Path, tmp_path: Path) -> None:
    """Only wheels are taken from the folder."""
    (tmp_path / "a.whl").write_text("wheel")
    (tmp_path / "notes.txt").write_text("no wheel")
    with images.stage_context("cpu", wheels=tmp_path, docker=docker) as context:
        assert sorted(path.name for path in (context / "wheels").iterdir()) == ["a.whl", "kept"]


def test_a_missing_archive_is_named(docker: Path, tmp_path: Path) -> None:
    """Nothing is built without a model that was asked for."""
    with (
        pytest.raises(ImageFault, match=r"no such archive: .*none\.mar"),
        images.stage_context("cpu", [tmp_path / "none.mar"], docker=docker),
    ):
        pass


# --- What the Dockerfiles promise ---


@pytest.mark.parametrize("target", DOCKERFILES)
def test_a_dockerfile_can_be_read(target: str) -> None:
    """Every line is an instruction, and every argument has a default."""
    assert {word for word, _ in _instructions(target)} <= set(_KNOWN.split())
    assert all("=" in argument for argument in _rest(target, "ARG"))


@pytest.mark.parametrize("target", SERVING)
def test_a_serving_image_is_safe_by_default(target: str) -> None:
    """Not root, stopped by SIGTERM, its health by the entrypoint, and only the predictions' port named."""
    assert _rest(target, "USER")[-1] == "10001:10001"
    assert _rest(target, "STOPSIGNAL") == ["SIGTERM"]
    assert _rest(target, "EXPOSE") == ["8080"]
    assert json.loads(_rest(target, "ENTRYPOINT")[-1]) == ["python", "/opt/torchserve-neuron/entrypoint"]
    assert _rest(target, "HEALTHCHECK")[-1].endswith('["python", "/opt/torchserve-neuron/entrypoint", "healthcheck"]')


@pytest.mark.parametrize("target", SERVING)
def test_a_serving_image_has_no_compiler(target: str) -> None:
    """Neither Debian's packages nor wheels bring one: pip may take wheels only."""
    installed = " ".join(rest for rest in _rest(target, "RUN") if "apt-get install" in rest)
    assert re.findall(r"--no-install-recommends (.+?) &&", installed) == ["nginx-light"]
    assert 'PIP_ONLY_BINARY=":all:"' in _rest(target, "ARG")


@pytest.mark.parametrize("target", SERVING)
def test_models_are_the_last_layer(target: str) -> None:
    """A changed archive or entrypoint leaves the layers with the packages as they are."""
    copies = _rest(target, "COPY")
    assert copies[-1] == "models /models"
    assert [rest.split()[0] for rest in copies[-3:]] == ["guard", "entrypoint", "models"]


@pytest.mark.parametrize("target", SERVING)
def test_the_settings_of_pip_stay_out_of_the_image(target: str) -> None:
    """Where pip looks may hold a password: it is an argument of the first stage only."""
    instructions = _instructions(target)
    stages = [index for index, (word, _) in enumerate(instructions) if word == "FROM"]
    assert len(stages) == 2
    assert not any("PIP_" in rest for _, rest in instructions[stages[1] :])


@pytest.mark.parametrize("target", DOCKERFILES)
def test_an_image_is_labelled(target: str) -> None:
    """Title, description, licence, version and revision are there."""
    found = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(_rest(target, "LABEL"))))
    assert found == {"title", "description", "licenses", "version", "revision"}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-signatures.txt", "requirements-tracing-neuron.txt"])
def test_the_pins_are_those_of_the_kit(name: str) -> None:
    """What an image installs is what the kit is tested with."""
    kit, image = _read_pins(ROOT / "requirements.txt"), _read_pins(DOCKER / name)
    assert image
    assert {package: pin for package, pin in image.items() if kit.get(package) != pin} == {}


def _read_pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==(\S+)", path.read_text()))


# --- compose.yaml ---

SERVICES: dict[str, Any] = COMPOSE["services"]
HARD = [name for name in SERVICES if name != "neuron-monitor"]  # AWS's exporter is privileged, see the file


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_limited(name: str) -> None:
    """No service runs `latest`, or without a limit on memory, processors and processes."""
    service = SERVICES[name]
    assert re.search(r":[^:/]+$", service["image"]) and "latest" not in service["image"]
    assert {"mem_limit", "cpus", "pids_limit", "restart"} <= set(service)


@pytest.mark.parametrize("name", HARD)
def test_a_service_has_no_rights_to_spare(name: str) -> None:
    """Read-only root, no capability, and no way to get one."""
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_only_predictions_and_dashboard_are_published() -> None:
    """Both on this machine's loopback alone; management and metrics nowhere."""
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert {name: [port.rsplit(":", 1)[1] for port in found] for name, found in ports.items()} == {
        "torchserve": ["8080"],
        "grafana": ["3000"],
    }
    assert all(port.startswith("127.0.0.1:") for found in ports.values() for port in found)


def test_metrics_have_a_network_without_a_way_out() -> None:
    """Prometheus is on it and on no other."""
    assert COMPOSE["networks"]["metrics"]["internal"] is True
    assert SERVICES["prometheus"]["networks"] == ["metrics"]


def test_what_is_mounted_is_there_and_read_only() -> None:
    """Every folder of the repository that a service mounts exists, and cannot be written from inside."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ()) if "./" in mount]
    assert len(mounts) == 5
    for mount in mounts:
        source, mode = re.sub(r"\$\{\w+:-(.+?)\}", r"\1", mount).split(":")[::2]
        assert (ROOT / source).exists() or source == "./model_store", source
        assert mode == "ro"


def test_stopping_leaves_time_to_drain() -> None:
    """The grace period is over the entrypoint's TSN_DRAIN_SECONDS of 25."""
    assert int(SERVICES["torchserve"]["stop_grace_period"].removesuffix("s")) >= 35


def test_the_override_for_chips_adds_to_a_service_that_is_there() -> None:
    """docker/compose.neuron.yaml changes TorchServe only, and gives it a device and the group that owns it."""
    override = yaml.safe_load((DOCKER / "compose.neuron.yaml").read_text())["services"]
    assert list(override) == ["torchserve"]
    assert override["torchserve"]["devices"] == ["/dev/neuron0:/dev/neuron0"]
    assert "privileged" not in override["torchserve"]
