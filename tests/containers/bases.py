"""Stand-ins for the base images, made without pulling one: Debian's own packages, and the kit's emulator as a chip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.containers.engine import Engine
from tests.servers import ROOT

DEBIAN = "localhost/stand-in-python:bookworm"  # for python:3.11-slim-bookworm
NEURON = "localhost/stand-in-neuron:emulated"  # for AWS's container for inf1
_PACKAGES = "python3-venv,python3-pip,ca-certificates,nginx-light"
_MIRROR = "http://deb.debian.org/debian"


def make_debian(engine: Engine) -> str:
    """Return the stand-in for a Python image, bootstrapped (two minutes) unless it is there."""
    if engine.has_image(DEBIAN):
        return DEBIAN
    root = engine.folder / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    bootstrap = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root), _MIRROR]
    subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    tar = engine.folder / "rootfs.tar"
    kept_out = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
    subprocess.run(["tar", "-C", str(root), *kept_out, "-cf", str(tar), "."], check=True)
    engine.run("import", str(tar), DEBIAN)
    shutil.rmtree(root)
    tar.unlink()
    return DEBIAN


def fetch_wheels(folder: Path) -> Path:
    """Return a folder with all wheels that the images take, fetched by this machine's pip unless they are there.

    Builds then ask no index, whatever this machine's settings for one are.
    """
    requirements = ROOT / "docker" / "requirements.txt"
    stamp = folder / "requirements"
    wanted = requirements.read_text() + (requirements.parent / "requirements-signatures.txt").read_text()
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        # The second is the server of AWS's containers.
        for asked in (["-r", str(requirements)], ["torchserve==0.11.0"]):
            subprocess.run([*command, "--dest", str(folder), *asked], check=True)
        stamp.write_text(wanted)
    return folder


def make_neuron(engine: Engine, wheels: Path) -> str:
    """Return the stand-in for AWS's container: its layout, TorchServe 0.11.0, the emulator as its chip."""
    context = engine.folder / "neuron-context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    shutil.copytree(ROOT / "emulator", context / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
    (context / "wheels").mkdir()
    for wheel in wheels.glob("*.whl"):
        os.link(wheel, context / "wheels" / wheel.name)
    file = Path(__file__).with_name("neuron.Dockerfile")
    engine.run(
        "build", "--format=docker", f"--build-arg=BASE={DEBIAN}", f"--file={file}", f"--tag={NEURON}", str(context)
    )
    shutil.rmtree(context)
    return NEURON
