"""The command of TorchServe's JVM, without TorchServe's launcher: its start costs a Python, and its class path keeps
the JVM from sharing classes (docs/decisions/0024-cold-start.md)."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.class_archive import ClassArchive, find_class_archive, make_in_background
from serving.errors import ServerError
from serving.java import Java

_LOG_OPTION = "-Dlog4j.configurationFile="
PID_FILE = ".model_server.pid"  # in the server's temporary folder, where `torchserve --stop` looks for it


def find_torchserve() -> Path:
    """Return the folder of the package ``ts`` in this Python, without importing it; raise ``ServerError``."""
    spec = importlib.util.find_spec("ts")
    folder = Path(spec.origin).resolve().parent if spec is not None and spec.origin is not None else None
    if folder is None or not any((folder / "frontend").glob("*.jar")):
        raise ServerError("TorchServe is not installed in this Python; run: make venv, or: pip install torchserve")
    return folder


def make_class_path(torchserve: Path, properties: Mapping[str, str]) -> str:
    """Return where the JVM finds TorchServe, and the plugins that ``config.properties`` names.

    The current folder, which TorchServe's launcher puts first, is left out: the JVM shares no classes across a folder
    that is not empty.
    """
    plugins = properties.get("plugins_path", "")
    added = f":{plugins}" if "*" in plugins else f":{plugins}/*" if plugins else ""
    return f"{torchserve}/frontend/*{added}"


@dataclass(frozen=True)
class Launch:
    """How TorchServe is started with one ``config.properties``."""

    java: Java
    torchserve: Path  # the folder of the package ``ts``
    config: Path
    properties: Mapping[str, str]  # of that file
    classes: ClassArchive | None  # that the JVM can share

    def make_command(self, *, log_config: Path, temporary: Path, record: Path, store: Path, models: str) -> list[str]:
        """Return the command that ``torchserve --start --ncs --log-config ...`` runs.

        The loaded classes are listed in the file ``record`` where there is no archive of them yet.
        """
        return [
            str(self.java.command),
            f"-Dmodel_server_home={self.torchserve.parent}",
            # A URL, where a blank or a percent sign of the path is written as such a sign and two digits.
            f"{_LOG_OPTION}{log_config.resolve().as_uri()}",
            f"-Djava.io.tmpdir={temporary}",
            *read_options(self.properties),
            *(self.classes.start_options(record) if self.classes is not None else ()),
            *("-cp", make_class_path(self.torchserve, self.properties)),
            "org.pytorch.serve.ModelServer",
            *("--python", sys.executable),
            *("-f", str(self.config.resolve())),
            *("-s", str(store.resolve())),
            "-ncs",
            *("-m", models),
        ]

    def prepare_next(self, record: Path) -> None:
        """Let an archive of the classes in the file ``record`` be made in the background, if the JVM listed them."""
        if self.classes is not None and record.is_file():
            make_in_background(self.classes, record)


def plan_launch(java: Java, config: Path) -> Launch:
    """Return how to start TorchServe here; raise ``ServerError`` where it is not installed."""
    torchserve, properties = find_torchserve(), read_properties(config)
    class_path = make_class_path(torchserve, properties)
    classes = find_class_archive(java, class_path, torchserve / "frontend", read_options(properties))
    return Launch(java, torchserve, config, properties, classes)


def read_options(properties: Mapping[str, str]) -> list[str]:
    """Return the JVM's options that ``config.properties`` names, but for the log configuration, which is ours."""
    return [word for word in properties.get("vmargs", "").split() if not word.startswith(_LOG_OPTION)]


def read_properties(path: Path) -> dict[str, str]:
    """Return the keys of a ``config.properties`` as TorchServe's launcher reads them: a line each, no escapes."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            found[key.strip()] = value.strip()
    return found
