"""The Kubernetes manifests: rendered by the real Kustomize, checked against the published schemas and one another."""

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests import manifests
from tests.manifests import (
    COMPONENTS,
    KUBERNETES,
    TARGETS,
    Manifest,
    of_kind,
    only,
    pod_of,
    render,
    server_of,
    settings_of,
)

# The oldest release with all fields that are used (unhealthyPodEvictionPolicy), and the newest that the package has.
RELEASES = ("1.27", kubernetes_validate.latest_version())
FOREIGN = ("PodMonitor", "ServingRuntime", "InferenceService")  # schemas of others: tests/unit/test_kserve.py
HEALTHCHECK = ["python", "/opt/torchserve-neuron/entrypoint", "healthcheck"]

rendered = pytest.mark.parametrize("folder", [pytest.param(path, id=name) for name, path in manifests.list_rendered()])
overlays = pytest.mark.parametrize(
    "objects", [pytest.param(KUBERNETES / "overlays" / t, id=t) for t in TARGETS], indirect=True
)
everywhere = pytest.mark.parametrize(
    "objects",
    [
        *(pytest.param(KUBERNETES / "overlays" / t, id=t) for t in TARGETS),
        pytest.param(KUBERNETES / "example", id="example"),
    ],
    indirect=True,
)


@pytest.fixture
def objects(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    """The objects that Kustomize makes of a folder."""
    return render(request.param)


_checked: set[str] = set()


def check(manifest: Manifest, release: str) -> None:
    """Raise ``ValidationError`` unless ``manifest`` is of its kind's schema; nothing is checked twice."""
    key = json.dumps([release, manifest], sort_keys=True)
    if manifest["kind"] not in FOREIGN and key not in _checked:
        kubernetes_validate.validate(manifest, release, strict=True)
        _checked.add(key)


def mebibytes(size: str) -> int:
    units = {"Mi": 1, "Gi": 1024}
    return int(size[:-2]) * units[size[-2:]]


def seconds_before_the_signal(container: Manifest) -> int:
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    return int(command[1])


# --- Schemas ---


@pytest.mark.parametrize("release", RELEASES)
@rendered
def test_every_object_is_of_its_schema(folder: Path, release: str) -> None:
    """No field is unknown, misplaced or of a wrong type in the oldest and the newest release."""
    for each in render(folder):
        check(each, release)


@pytest.mark.parametrize("component", [name for name in COMPONENTS if name != "network-policy"])  # the overlays have it
def test_each_component_fits_an_overlay(component: str, tmp_path: Path) -> None:
    """A component alone on an overlay gives objects of their schemas, none twice."""
    objects = manifests.render_with(tmp_path, "inf2", (component,))
    for each in objects:
        check(each, RELEASES[-1])
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))


def test_the_schemas_refuse_an_unknown_field() -> None:
    """What the tests above rest on: a misspelt field is a fault."""
    deployment = yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, RELEASES[-1], strict=True)


# --- One object and another ---


@everywhere
def test_selectors_match_the_pods(objects: tuple[Manifest, ...]) -> None:
    """Deployment, Service, budget, policies, monitor and spread all mean the pods of the template."""
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, kind)]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod_of(objects)["topologySpreadConstraints"]]
    assert len(selectors) >= 6
    assert all(selector and selector.items() <= labels.items() for selector in selectors)


@everywhere
def test_what_the_pod_refers_to_is_there(objects: tuple[Manifest, ...]) -> None:
    """Every ConfigMap and account is rendered, and every Secret is one that the example shows how to make."""
    pod = pod_of(objects)
    maps = {each["configMapRef"]["name"] for c in pod["initContainers"] + pod["containers"] for each in c["envFrom"]}
    maps |= {each["configMap"]["name"] for each in manifests.walk(pod["volumes"]) if "configMap" in each}
    assert len(maps) >= 3
    assert maps - {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")} == set()
    secrets = {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    shown = yaml.safe_load_all((KUBERNETES / "example" / "secrets.example.yaml").read_text())
    assert secrets <= {each["metadata"]["name"] for each in shown}
    assert pod["serviceAccountName"] == only(objects, "ServiceAccount")["metadata"]["name"]


@everywhere
def test_what_is_mounted_is_declared(objects: tuple[Manifest, ...]) -> None:
    """Volumes and mounts name each other, without one left over."""
    pod = pod_of(objects)
    mounted = {each["name"] for c in pod["initContainers"] + pod["containers"] for each in c["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}


@everywhere
def test_ports_have_names_that_are_declared(objects: tuple[Manifest, ...]) -> None:
    """Service, policies and monitor name ports of the container, whose numbers are those of the settings."""
    ports = {each["name"]: each["containerPort"] for each in server_of(objects)["ports"]}
    named = {each["targetPort"] for service in of_kind(objects, "Service") for each in service["spec"]["ports"]}
    for policy in of_kind(objects, "NetworkPolicy"):
        named |= {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    for monitor in of_kind(objects, "PodMonitor"):
        named |= {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
    settings = settings_of(objects)
    assert named <= set(ports)
    assert ports == {"http": int(settings["TSN_PORT"]), "metrics": int(settings["TSN_METRICS_PORT"])}


@everywhere
def test_files_of_the_settings_are_mounted(objects: tuple[Manifest, ...]) -> None:
    """Each path that a setting names lies in a volume of the server."""
    mounts = [each["mountPath"] for each in server_of(objects)["volumeMounts"]]
    paths = {name: value for name, value in settings_of(objects).items() if value.startswith("/")}
    assert {"TSN_MODEL_STORE", "TSN_TOKEN_FILE"} <= set(paths)
    for name, value in paths.items():
        assert any(value == mount or value.startswith(f"{mount}/") for mount in mounts), name


@rendered
def test_the_entrypoint_knows_every_setting(folder: Path) -> None:
    """Each TSN_ variable is one that the images' entrypoint reads: it refuses to start with another."""
    known = set(re.findall(r'"(TSN_[A-Z_]+)"', (manifests.ROOT / "docker/entrypoint/settings.py").read_text()))
    objects = render(folder)
    named = {each["name"] for each in manifests.walk(list(objects)) if str(each.get("name", "")).startswith("TSN_")}
    named |= {name for each in of_kind(objects, "ConfigMap") for name in each["data"] if name.startswith("TSN_")}
    assert len(named) >= 7
    assert named <= known


def test_the_autoscaler_means_the_deployment(tmp_path: Path) -> None:
    """It scales the Deployment that is there, which no longer names a number of its own."""
    objects = manifests.render_with(tmp_path, "cpu", ("monitoring", "autoscaling"))
    spec = only(objects, "HorizontalPodAutoscaler")["spec"]
    deployment = only(objects, "Deployment")
    assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) == (
        "Deployment",
        deployment["metadata"]["name"],
    )
    assert "replicas" not in deployment["spec"]
    assert spec["minReplicas"] >= 2
    assert (
        spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
        > spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"]
    )


# --- Starting and ending ---


@everywhere
def test_probes_ask_the_right_thing(objects: tuple[Manifest, ...]) -> None:
    """Start and readiness ask for the models' true state, liveness only for the port."""
    server = server_of(objects)
    assert server["startupProbe"]["exec"]["command"] == HEALTHCHECK
    assert server["readinessProbe"]["exec"]["command"] == HEALTHCHECK
    assert server["livenessProbe"]["tcpSocket"] == {"port": "http"}


def test_the_image_has_the_healthcheck_of_the_probes() -> None:
    """The command is the images' own HEALTHCHECK."""
    files = sorted((manifests.ROOT / "docker").glob("*.Dockerfile"))
    checked = [path for path in files if "HEALTHCHECK" in path.read_text()]
    assert len(checked) >= 3
    wanted = "[" + ", ".join(f'"{word}"' for word in HEALTHCHECK) + "]"
    assert all(wanted in path.read_text() for path in checked)


@everywhere
def test_the_grace_period_outlasts_the_drain(objects: tuple[Manifest, ...]) -> None:
    """preStop, draining and ten seconds for the end of Java fit before SIGKILL."""
    before = seconds_before_the_signal(server_of(objects))
    drain = int(settings_of(objects)["TSN_DRAIN_SECONDS"])
    assert before >= 5
    assert pod_of(objects)["terminationGracePeriodSeconds"] >= before + drain + 10


@everywhere
def test_loading_has_ten_minutes(objects: tuple[Manifest, ...]) -> None:
    """The startup probe, before whose success the others do not count, allows ten minutes."""
    probe = server_of(objects)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


# --- Closed ---


@everywhere
def test_the_pod_is_restricted(objects: tuple[Manifest, ...]) -> None:
    """What the pod security standard "restricted" asks for, and a read-only root and no account token besides."""
    pod = pod_of(objects)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    for container in pod["initContainers"] + pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@rendered
def test_nothing_is_of_the_host(folder: Path) -> None:
    """No privileged container, no host network, process table, port or path."""
    for each in manifests.walk(list(render(folder))):
        assert not each.get("privileged")
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostPath", "hostPort"} & set(each)


def test_the_user_is_that_of_the_images() -> None:
    """The number is the one that the images make."""
    context = pod_of(render(KUBERNETES / "overlays" / "cpu"))["securityContext"]
    assert (
        f"USER {context['runAsUser']}:{context['runAsGroup']}" in (manifests.ROOT / "docker/cpu.Dockerfile").read_text()
    )


def test_root_is_a_choice(tmp_path: Path) -> None:
    """With device-root the server is root, still without any capability, and the init container is not."""
    objects = manifests.render_with(tmp_path, "inf1", ("device-root",))
    context = server_of(objects)["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"], context["capabilities"]) == (0, False, {"drop": ["ALL"]})
    assert "runAsUser" not in pod_of(objects)["initContainers"][0]["securityContext"]


@everywhere
def test_management_is_not_reachable(objects: tuple[Manifest, ...]) -> None:
    """No container port, service or policy opens it, and it listens on loopback."""
    settings = settings_of(objects)
    assert settings["TSN_MANAGEMENT_BIND"] == "127.0.0.1"
    text = yaml.safe_dump_all([each for each in objects if each["kind"] != "ConfigMap"])
    assert settings["TSN_MANAGEMENT_PORT"] not in text


@everywhere
def test_predictions_want_a_token(objects: tuple[Manifest, ...]) -> None:
    """The guard is in front and reads its tokens from the Secret, which the pod cannot start without."""
    assert settings_of(objects)["TSN_GUARD"] == "1"
    assert "TSN_TOKENS" not in settings_of(objects)
    tokens = next(each for each in pod_of(objects)["volumes"] if each["name"] == "tokens")["secret"]
    assert tokens["defaultMode"] == 0o440
    assert not tokens.get("optional")


@overlays
def test_metrics_stay_inside_unless_asked_for(objects: tuple[Manifest, ...]) -> None:
    """Without the monitoring component they listen on loopback and no policy lets anyone at them."""
    assert settings_of(objects)["TSN_METRICS_BIND"] == "127.0.0.1"
    (policy,) = of_kind(objects, "NetworkPolicy")
    assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == ["http"]


def test_monitoring_opens_metrics_to_prometheus_alone(tmp_path: Path) -> None:
    """The component opens the port to one namespace's Prometheus, and scrapes it by that name."""
    objects = manifests.render_with(tmp_path, "cpu", ("monitoring",))
    (rule,) = only(objects, "NetworkPolicy", "torchserve-metrics")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    (source,) = rule["from"]
    assert {"namespaceSelector", "podSelector"} == set(source)
    assert settings_of(objects)["TSN_METRICS_BIND"] == "0.0.0.0"


@overlays
def test_the_way_out_is_names_and_https(objects: tuple[Manifest, ...]) -> None:
    """Egress is DNS within the cluster and 443 outside of all private and link-local ranges."""
    names, storage = only(objects, "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert storage["ports"] == [{"port": 443, "protocol": "TCP"}]
    closed = storage["to"][0]["ipBlock"]["except"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(closed)


def test_trusted_keys_are_a_folder_that_nobody_adds_to() -> None:
    """The volume is projected, whose folder has the sticky bit that the server insists on, and holds .pem files."""
    objects = render(KUBERNETES / "example")
    (volume,) = [each for each in pod_of(objects)["volumes"] if each["name"] == "trusted-keys"]
    (source,) = volume["projected"]["sources"]
    assert all(name.endswith(".pem") for name in only(objects, "ConfigMap", source["configMap"]["name"])["data"])


@everywhere
def test_archives_are_read_only(objects: tuple[Manifest, ...]) -> None:
    """The init container writes the model store, the server reads it, and only the init container gets credentials."""
    (mount,) = [each for each in server_of(objects)["volumeMounts"] if each["name"] == "models"]
    assert (mount["mountPath"], mount["readOnly"]) == (settings_of(objects)["TSN_MODEL_STORE"], True)
    notes = only(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert notes["eks.amazonaws.com/skip-containers"] == "torchserve"


# --- Resources ---


@rendered
def test_images_are_pinned(folder: Path) -> None:
    """Every image has a tag with a number, never "latest"."""
    images = [each["image"] for each in manifests.walk(list(render(folder))) if isinstance(each.get("image"), str)]
    assert images
    assert all(re.search(r":[\w.-]*\d+\.\d+\.\d+$", image) for image in images), images


@rendered
def test_resources_are_limited(folder: Path) -> None:
    """Each container asks for processors and memory; what it asks for in memory, and in chips, is its limit."""
    containers = [
        c for each in manifests.walk(list(render(folder))) for c in each.get("containers", []) if "image" in c
    ]
    assert containers
    for container in containers:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])


@everywhere
def test_what_is_written_is_bounded(objects: tuple[Manifest, ...]) -> None:
    """Every emptyDir has a limit, and all together stay below the ephemeral storage at which the pod is evicted."""
    folders = {each["name"]: each["emptyDir"] for each in pod_of(objects)["volumes"] if "emptyDir" in each}
    assert set(folders) == {"models", "scratch", "tmp"}
    limit = server_of(objects)["resources"]["limits"]["ephemeral-storage"]
    assert sum(mebibytes(each["sizeLimit"]) for each in folders.values()) + 512 <= mebibytes(limit)


@pytest.mark.parametrize(("target", "chips"), [("cpu", None), ("inf1", "1"), ("inf2", "1")])
def test_a_pod_takes_one_chip(target: str, chips: str | None) -> None:
    """inf1 and inf2 ask for one chip, the CPU for none."""
    resources = server_of(render(KUBERNETES / "overlays" / target))["resources"]
    assert resources["limits"].get("aws.amazon.com/neuron") == chips
    assert resources["requests"].get("aws.amazon.com/neuron") == chips


@pytest.mark.parametrize("target", ["inf1", "inf2"])
def test_neuron_pods_go_where_the_chips_are(target: str) -> None:
    """They go to the family's instance types only, tolerate their taint, and wait for a chip during a rollout."""
    objects = render(KUBERNETES / "overlays" / target)
    affinity = pod_of(objects)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (types,) = [each["values"] for term in affinity["nodeSelectorTerms"] for each in term["matchExpressions"]]
    assert types
    assert {name.split(".")[0] for name in types} == {target}
    assert {each["key"] for each in pod_of(objects)["tolerations"]} == {"aws.amazon.com/neuron"}
    assert only(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_example_is_what_a_user_needs() -> None:
    """It sets the namespace everywhere, names a registry's image, and enforces the restricted standard on itself."""
    objects = render(KUBERNETES / "example")
    namespace = only(objects, "Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = [each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"]
    assert set(inside) == {namespace["name"]}
    assert server_of(objects)["image"].startswith(
        "111122223333.dkr.ecr.us-east-1.amazonaws.com/torchserve-neuron:inf2-"
    )


def test_no_secret_is_rendered() -> None:
    """No kustomization carries a token or a key."""
    for _, folder in manifests.list_rendered():
        assert not of_kind(render(folder), "Secret")
