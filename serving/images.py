"""Container images: the bases they stand on, the engine that builds them, and the build itself."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from serving.errors import ServerError

DOCKER = Path(__file__).resolve().parent.parent / "docker"
ENGINES = ("podman", "docker", "buildah")
# pip's own variables that mean the same inside a build; a certificate's path, for one, does not.
_PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")
_PARTS = ("entrypoint", "guard", "models", "wheels")  # folders of docker/ that a serving image takes


class ImageFault(ServerError):
    """An image cannot be built."""


@dataclass(frozen=True)
class BaseImage:
    """A base image, as ``docker/images.json`` lists it."""

    name: str  # what BASE= takes instead of the long name
    target: str  # "cpu", "inf1", "inf2"
    image: str  # registry/repository:tag
    sdk: str | None  # release of the Neuron SDK inside
    python: str  # its version
    torch: str  # its version, or the one that is installed on it
    torchserve: str  # the same
    status: str  # one line for people
    source: str  # where the tag and the versions were read


@dataclass(frozen=True)
class Build:
    """An image to build."""

    target: str  # "cpu", "inf1", "inf2", "tracing"
    base: str  # registry/repository:tag
    tag: str  # of the result
    packages: tuple[str, ...] = ()  # "name==version" that the archives' handlers need besides
    revision: str = "unknown"  # the kit's commit
    options: tuple[str, ...] = ()  # for the engine, as they are


def read_bases(path: Path = DOCKER / "images.json") -> list[BaseImage]:
    """Return the known base images; the first of a target is its default. Raises ``ImageFault``."""
    names = {field.name for field in fields(BaseImage)}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ImageFault(f"{path} cannot be read ({exc!r}); expected the list of base images") from exc
    for row in rows:
        if set(row) != names:
            differing = ", ".join(sorted(names.symmetric_difference(row)))
            raise ImageFault(f"{path}: {row.get('name', row)} lacks or has too much: {differing}")
    return [BaseImage(**row) for row in rows]


def choose_base(target: str, asked: str, bases: Sequence[BaseImage]) -> str:
    """Return the image that ``asked`` names: "" is the target's default, a listed name, or any image as it is.

    Raises ``ImageFault`` for an unknown target, and for a listed base of another target.
    """
    own = [base for base in bases if base.target == target]
    if not own:
        known = ", ".join(dict.fromkeys(base.target for base in bases))
        raise ImageFault(f"there is no image for {target!r}, only for {known}; say TARGET=cpu, for one")
    if not asked:
        return own[0].image
    named = next((base for base in bases if base.name == asked), None)
    if named is None:
        return asked
    if named.target != target:
        raise ImageFault(f"{asked} is a base for {named.target}, not for {target}; say TARGET={named.target}")
    return named.image


def find_engine(asked: str = "", *, path: str | None = None) -> str:
    """Return the first of podman, docker and buildah that is there and works; ``asked`` is the only one tried.

    ``path`` is searched instead of PATH. Raises ``ImageFault`` that says what was tried.
    """
    if asked and asked not in ENGINES:
        raise ImageFault(f"{asked!r} is not known; expected {', '.join(ENGINES)}")
    tried = []
    for name in (asked,) if asked else ENGINES:
        found = shutil.which(name, path=path)
        if found is None:
            tried.append(f"{name} is not installed")
        elif subprocess.run([found, "info"], capture_output=True, check=False).returncode:
            tried.append(f"`{name} info` fails (docker: its daemon does not run, or may not be used)")
        else:
            return name
    raise ImageFault(f"no engine builds images here: {'; '.join(tried)}; install podman (Debian: apt install podman)")


def compose_command(engine: str, build: Build, context: Path, environment: Mapping[str, str]) -> list[str]:
    """Return the engine's command that builds ``context``; pip's settings are named, and taken from ``environment``."""
    arguments = {"BASE": build.base, "REVISION": build.revision}
    if build.packages:
        arguments["PACKAGES"] = " ".join(build.packages)
    command = [engine, "build", "--file", str(context / "Dockerfile"), "--tag", build.tag]
    if engine != "docker":
        # OCI's own format has no place for a HEALTHCHECK.
        command += ["--format", "docker"]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name in _PIP_VARIABLES:
        if environment.get(name):
            command += ["--build-arg", name]  # without its value: an index's address may hold a password
    return [*command, *build.options, str(context)]


@contextmanager
def stage_context(
    target: str, archives: Iterable[Path] = (), wheels: Path | None = None, *, docker: Path = DOCKER
) -> Iterator[Path]:
    """Give a folder with what the image is built from, for the time of a ``with``: a copy of ``docker``, with these.

    ``archives`` are .mar files, whose signatures beside them go along; ``wheels`` is a folder of wheels that pip looks
    into. The folder goes away afterwards. Raises ``ImageFault`` for a file that is not there.
    """
    archives = list(archives)
    missing = [str(path) for path in archives if not path.is_file()]
    if missing:
        raise ImageFault(f"no such archive: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="torchserve-neuron-image-") as name:
        folder = Path(name)
        shutil.copyfile(docker / f"{target}.Dockerfile", folder / "Dockerfile")
        for file in docker.glob("requirements*.txt"):
            shutil.copyfile(file, folder / file.name)
        for part in _PARTS:
            ignore = shutil.ignore_patterns("__pycache__", "*.mar", "*.mar.sig", "*.whl")
            shutil.copytree(docker / part, folder / part, ignore=ignore)
        for archive in archives:
            shutil.copyfile(archive, folder / "models" / archive.name)
            signature = archive.with_name(archive.name + ".sig")
            if signature.is_file():
                shutil.copyfile(signature, folder / "models" / signature.name)
        for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
            shutil.copyfile(wheel, folder / "wheels" / wheel.name)
        _make_readable(folder)
        yield folder


def build_image(engine: str, build: Build, context: Path, *, report: Callable[[str], None]) -> None:
    """Build the image with what the engine prints shown; raise ``ImageFault`` with the command if it fails."""
    command = compose_command(engine, build, context, os.environ)
    report(" ".join(command))
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ImageFault(f"`{engine} build` ended with status {status} (see above); base: {build.base}")


def _make_readable(folder: Path) -> None:
    """Let the image's user, who owns none of it, read all that is copied, whatever umask it was written with."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
