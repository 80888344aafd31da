"""KServe's and the Prometheus operator's objects: the fields that their documentation has, and the names they share."""

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.manifests import KSERVE, KUBERNETES, TARGETS, Manifest, only, render, render_with, server_of

# Fields of the objects, of those that are used here, by their public reference: KServe 0.11 to 0.18 (serving.kserve.io:
# ServingRuntimeSpec v1alpha1, PredictorSpec and ModelSpec v1beta1) and the Prometheus operator (PodMonitorSpec v1).
RUNTIME = {
    "affinity",
    "containers",
    "multiModel",
    "protocolVersions",
    "supportedModelFormats",
    "tolerations",
    "volumes",
}
FORMAT = {"autoSelect", "name", "version"}
PREDICTOR = {
    *{"automountServiceAccountToken", "enableServiceLinks", "maxReplicas", "minReplicas", "model"},
    *{"serviceAccountName", "terminationGracePeriodSeconds"},
}
MODEL = {"modelFormat", "protocolVersion", "runtime", "storageUri"}
MONITOR = {"podMetricsEndpoints", "podTargetLabels", "sampleLimit", "selector"}
ENDPOINT = {"interval", "path", "port", "scrapeTimeout"}


def read_service() -> Manifest:
    service: Manifest = yaml.safe_load((KSERVE / "inference-service.example.yaml").read_text())
    return service


def runtime_of(target: str) -> Manifest:
    return only(render(KSERVE), "ServingRuntime", f"torchserve-neuron-{target}")


def settings(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


@pytest.mark.parametrize("target", TARGETS)
def test_a_runtime_has_fields_of_kserve(target: str) -> None:
    """Nothing is there that the API server would refuse or drop."""
    runtime = runtime_of(target)
    assert (runtime["apiVersion"], runtime["metadata"]["name"]) == (
        "serving.kserve.io/v1alpha1",
        f"torchserve-neuron-{target}",
    )
    assert set(runtime["spec"]) <= RUNTIME
    assert all(set(each) == FORMAT for each in runtime["spec"]["supportedModelFormats"])


@pytest.mark.parametrize("target", TARGETS)
def test_a_runtime_is_a_valid_pod(target: str) -> None:
    """Containers, volumes, affinity and tolerations are those of a pod, by Kubernetes' own schema."""
    spec = copy.deepcopy(runtime_of(target)["spec"])
    pod = {name: value for name, value in spec.items() if name in {"affinity", "containers", "tolerations", "volumes"}}
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": target}, "spec": pod}
    kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("target", TARGETS)
def test_a_runtime_serves_as_the_deployment_does(target: str) -> None:
    """Probes, resources and closing are those of the target's overlay; KServe wants its own container name."""
    (container,) = runtime_of(target)["spec"]["containers"]
    server = server_of(render(KUBERNETES / "overlays" / target))
    assert container["name"] == "kserve-container"
    for part in ("startupProbe", "readinessProbe", "lifecycle"):
        assert container[part] == server[part]
    without_disk = {name: value for name, value in server["resources"]["limits"].items() if name != "ephemeral-storage"}
    assert container["resources"]["limits"] == without_disk
    assert server["securityContext"].items() <= container["securityContext"].items()


@pytest.mark.parametrize("target", TARGETS)
def test_a_runtime_reads_what_kserve_fetched(target: str) -> None:
    """The model store is where the storage initializer puts storageUri, behind the guard, on the port that is named."""
    (container,) = runtime_of(target)["spec"]["containers"]
    assert settings(container)["TSN_MODEL_STORE"] == "/mnt/models"
    assert settings(container)["TSN_GUARD"] == "1"
    assert settings(container)["TSN_MANAGEMENT_BIND"] == "127.0.0.1"
    assert [each["containerPort"] for each in container["ports"]] == [int(settings(container)["TSN_PORT"])]


def test_the_service_has_fields_of_kserve() -> None:
    """Nothing is there that the API server would refuse or drop."""
    service = read_service()
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(service["spec"]) == {"predictor"}
    assert set(service["spec"]["predictor"]) == PREDICTOR
    assert set(service["spec"]["predictor"]["model"]) == MODEL


def test_the_service_names_a_runtime_that_takes_it() -> None:
    """Runtime, model format, version and protocol agree."""
    model = read_service()["spec"]["predictor"]["model"]
    runtime = only(render(KSERVE), "ServingRuntime", model["runtime"])["spec"]
    assert model["modelFormat"] in [
        {"name": f["name"], "version": f["version"]} for f in runtime["supportedModelFormats"]
    ]
    assert model["protocolVersion"] in runtime["protocolVersions"]


def test_the_service_outlasts_the_drain() -> None:
    """The grace period covers the runtime's preStop, its drain and the end of Java."""
    predictor = read_service()["spec"]["predictor"]
    (container,) = runtime_of("cpu")["spec"]["containers"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert predictor["terminationGracePeriodSeconds"] >= before + int(settings(container)["TSN_DRAIN_SECONDS"]) + 10


def test_the_monitor_has_fields_of_the_operator(tmp_path: Path) -> None:
    """The PodMonitor has known fields only, and scrapes less than its interval long."""
    monitor = only(render_with(tmp_path, "cpu", ("monitoring",)), "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == MONITOR
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == ENDPOINT
    assert int(endpoint["scrapeTimeout"].rstrip("s")) < int(endpoint["interval"].rstrip("s"))
