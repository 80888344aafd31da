"""Servers seen from elsewhere: every port from another address, and what AWS's containers leave open."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from serving.exposure import ERROR, OK, WARNING
from serving.exposure_asking import connect_error
from tests import servers
from tests.certificates import make_certificate
from tests.exposed import look
from tests.ports import find_free_ports
from tests.servers import ROOT, Server

pytestmark = pytest.mark.long

# Of the block that is kept for examples (RFC 5737, RFC 3849), so that no real network is meant.
HERE, THERE = "198.51.100.1", "198.51.100.2"
HERE_6, THERE_6 = "2001:db8::1", "2001:db8::2"
SCAN = """
import json, sys
from serving.exposure_local import find_reachable
print(json.dumps(find_reachable(range(1, 65536), sys.argv[1:])))
"""
LISTENERS = """
import dataclasses, json, sys
from serving.exposure_local import find_own_listeners
print(json.dumps([dataclasses.astuple(each) for each in find_own_listeners(int(sys.argv[1]))]))
"""


@dataclass(frozen=True)
class Networks:
    """Two machines, as far as the network goes, with a cable between them."""

    server: str  # names of the network namespaces
    stranger: str
    folder: Path  # the server's own run folders: it has port 8080, which a real one here may have as well

    def run(self, where: str, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run the kit's Python on one of the two."""
        command = self.command(where, *words)
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=check)

    def command(self, where: str, *words: str) -> list[str]:
        """Return the command for that, with run folders of its own."""
        bind = f'mount --bind {self.folder} /tmp/torchserve-neuron-{os.getuid()} && exec "$@"'
        return ["ip", "netns", "exec", where, "sh", "-c", bind, "sh", sys.executable, *words]


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Networks]:
    """Two empty network namespaces that see each other, and nothing else."""
    if os.getuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces take root and iproute2")
    from serving.runs import base_folder

    base_folder()  # what is mounted over has to be there
    folder = tmp_path / "runs"
    folder.mkdir(mode=0o700)
    names = [f"tsn{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        cable = f"ip -n {names[0]} link add cable type veth peer name cable netns {names[1]}"
        subprocess.run(cable.split(), check=True, capture_output=True)
        for name, address, address_6 in zip(names, (THERE, HERE), (THERE_6, HERE_6), strict=True):
            for line in (
                f"address add {address}/24 dev cable",
                f"address add {address_6}/64 dev cable nodad",
                "link set lo up",
                "link set cable up",
            ):
                subprocess.run(["ip", "-n", name, *line.split()], check=True, capture_output=True)
        yield Networks(names[0], names[1], folder)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_a_scan_from_another_address_finds_nothing(tiny_archive: Path, networks: Networks) -> None:
    """`serve` with its default port and settings: five ports on the loopback, not one from elsewhere.

    Every TCP port is tried, over IPv4 and IPv6; that a scan finds what is open, it shows with a listener of its own.
    """
    serve = ("-m", "cli.main", "serve", str(tiny_archive), "--workers", "1", "--wait", "120")
    control = "import socket, time; s = socket.create_server(('0.0.0.0', 50123)); print(flush=True); time.sleep(300)"
    networks.run(networks.server, *serve)
    bait = subprocess.Popen(networks.command(networks.server, "-c", control), stdout=subprocess.PIPE)
    try:
        assert bait.stdout is not None and bait.stdout.readline()
        state = json.loads((networks.folder / "8080" / "server.json").read_text())
        listeners = json.loads(networks.run(networks.server, "-c", LISTENERS, str(state["pid"])).stdout)
        expected = [["tcp", "127.0.0.1", port] for port in (7070, 7071, 8080, 8081, 8082)]
        assert [[each[0], each[1].removeprefix("::ffff:"), each[2]] for each in listeners] == expected
        found = json.loads(networks.run(networks.stranger, "-c", SCAN, THERE, THERE_6).stdout)
        assert found == [[THERE, 50123]]
    finally:
        bait.kill()
        bait.communicate()
        networks.run(networks.server, "-m", "cli.main", "stop")


def test_a_server_that_is_open_to_all_is_full_of_errors(tiny_archive: Path, networks: Networks, tmp_path: Path) -> None:
    """As the settings of AWS's containers and TorchServe's image leave it, seen from another machine."""
    with open_server(tiny_archive, networks, tmp_path / "open"):
        doctor = ("-m", "cli.main", "doctor", "--server", f"http://{THERE}:8080", "--active", "--json")
        done = networks.run(networks.stranger, *doctor, check=False)
    found = {each["what"]: each for each in json.loads(done.stdout)}
    wrong = {what for what, each in found.items() if each["level"] == ERROR}
    inside = {"management :8081", "management :8081: POST /models", "management :8081: POST /workflows"}
    assert wrong == {
        *inside,
        "management :8081: scaling",
        "predictions",
        "gRPC management",
        "gRPC inference",
        "foreign URLs: /models",
        "foreign URLs: /workflows",
    }
    assert done.returncode == 1
    assert all(found[what]["level"] == WARNING for what in ("transport", "metrics :8082", "description"))


@contextmanager
def open_server(archive: Path, networks: Networks, folder: Path) -> Iterator[None]:
    """Serve an archive on every address of the server's side, without tokens, with any URL allowed."""
    for each in ("store", "temp"):
        (folder / each).mkdir(parents=True)
    shutil.copyfile(archive, folder / "store" / "tiny.mar")
    ports = zip(("inference", "management", "metrics"), (8080, 8081, 8082), strict=True)
    lines = [f"{name}_address=http://0.0.0.0:{port}" for name, port in ports]
    lines += [f"grpc_{name}_address=0.0.0.0" for name in ("inference", "management")]
    lines += [f"model_store={folder / 'store'}", "load_models=tiny.mar", "default_workers_per_model=1"]
    lines += ["disable_token_authorization=true", "enable_model_api=true", "metrics_mode=prometheus"]
    (folder / "config.properties").write_text("\n".join(lines) + "\n")
    words = ("-m", "ts.model_server", "--start", "--foreground", "--ncs", "--ts-config", "config.properties")
    own = {**dict.fromkeys(("TEMP", "TMPDIR"), str(folder / "temp")), "LOG_LOCATION": str(folder / "logs")}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            networks.command(networks.server, *words),
            cwd=folder,
            env={**os.environ, **servers.java_home(), **own},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ask = f"import requests; requests.get('http://{THERE}:8081/models/tiny', timeout=5).json()[0]['workers'][0]['pid']"
    try:
        servers.wait_for(
            lambda: networks.run(networks.stranger, "-c", ask, check=False).returncode == 0,
            "a worker",
            log=(folder / "server.log").read_text,
        )
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def left_open(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """TorchServe 0.11.0 with its own defaults, and its metrics' address, which is in TorchServe's own TLS.

    On the loopback address: on any other, whoever is near could have it run code while the test lasts.
    """
    folder = tmp_path_factory.mktemp("open")
    certificate, key = make_certificate(folder)
    metrics = f"https://127.0.0.1:{find_free_ports(1)[0]}"
    settings = {
        "metrics_address": metrics,
        "certificate_file": certificate,
        "private_key_file": key,
        "max_request_size": 2**31 - 1,
    }
    path = [servers.install_torchserve("0.11.0")]
    with servers.run_server(tiny_archive, folder / "s", python_path=path, settings=settings) as running:
        yield running, metrics


def test_what_an_older_server_leaves_open_is_an_error(left_open: tuple[Server, str]) -> None:
    """Registering, and any URL: 0.11.0 fetches the doctor's; a body of 1 GiB is waited for."""
    server, metrics = left_open
    found = look(server.inference, management=server.management, metrics=metrics, active=True)
    assert found["version"].found == "TorchServe 0.11.0"
    assert "grpc-without-tokens" in found["version"].meaning
    assert found["management: POST /models"].level == WARNING
    for route in ("/models", "/workflows"):
        assert found[f"foreign URLs: {route}"].level == ERROR
        assert "the URL was fetched" in found[f"foreign URLs: {route}"].found
    assert found["big bodies"].level == WARNING


def test_nothing_is_registered_by_a_look_at_an_open_server(left_open: tuple[Server, str]) -> None:
    """The URL that it fetched had nothing."""
    server, metrics = left_open
    look(server.inference, management=server.management, metrics=metrics, active=True)
    listed = requests.get(f"{server.management}/models", timeout=10).json()["models"]
    assert [each["modelName"] for each in listed] == ["tiny"]
    assert requests.get(f"{server.management}/workflows", timeout=10).json() == {"workflows": []}


def test_torchserves_own_tls_is_weighed(left_open: tuple[Server, str]) -> None:
    """1.2 only, with a certificate that nobody vouches for."""
    found = look(left_open[1])
    assert (found["TLS"].level, found["TLS"].found) == (WARNING, "offers TLS 1.2")
    assert (found["certificate"].level, "self-signed" in found["certificate"].found) == (WARNING, True)


GUARD = """
daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_header_timeout 1s; client_max_body_size 16m;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    location = /ping {{ proxy_pass {inference}; }}
    location = /predictions/tiny {{
      if ($http_authorization != "Bearer 0123456789abcdef") {{ return 401; }}
      proxy_pass {inference};
    }}
    location / {{ return 404; }}
  }}
}}
"""


def test_a_guard_in_front_closes_what_is_open(left_open: tuple[Server, str], tmp_path: Path) -> None:
    """nginx with TLS, a key, and two routes before TorchServe 0.11.0: not one error, and the key is taken."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    certificate, key = make_certificate(tmp_path)
    (port,) = find_free_ports(1)
    inference, config = left_open[0].inference, tmp_path / "nginx.conf"
    config.write_text(GUARD.format(folder=tmp_path, port=port, certificate=certificate, key=key, inference=inference))
    (tmp_path / "token").write_text("0123456789abcdef\n")
    guard = subprocess.Popen([nginx, "-c", str(config), "-p", str(tmp_path)], stderr=subprocess.PIPE)
    try:
        url = f"https://127.0.0.1:{port}"
        servers.wait_for(lambda: not connect_error("127.0.0.1", port, seconds=1), "nginx")
        options = {"management": "http://127.0.0.1:9", "metrics": "http://127.0.0.1:9", "slow_seconds": 10}
        found = look(url, token=tmp_path / "token", model="tiny", active=True, **options)
    finally:
        guard.terminate()
        guard.communicate()
    assert {name for name, each in found.items() if each.level != OK} == {"certificate"}
    assert found["TLS"].found == "offers TLS 1.2, 1.3"
    assert "yours is taken" in found["predictions"].meaning
    assert "no version shown" in found["version"].found
    assert "cut off" in found["slow clients"].found
