"""The commands that serve and look at servers and machines: serve, stop, status, doctor."""

import argparse
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

from cli.building import ROOT, add_folders, add_target, add_weights, emulate, ensure_archive, report
from cli.signing import add_trusted, trusted_keys
from handlers.errors import KitError

_Subparsers = Any  # argparse's own type for this is private
_MARKS = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}


def register(subparsers: _Subparsers) -> None:
    """Add the commands of this module."""
    text = "build the archive if it is out of date, start TorchServe, and wait for a true answer"
    parser = subparsers.add_parser("serve", help=text, description=text)
    help_text = "a shipped recipe's name, or the path of your own, or of a .mar file, which is served as it is"
    parser.add_argument("model", metavar="MODEL", help=help_text)
    add_target(parser)
    add_weights(parser)
    parser.add_argument("--log", choices=("warn", "info"), default="warn", help="what TorchServe logs")
    parser.add_argument("--token", action="store_true", help="switch token authorisation on")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="default: one for each processor, or as many as the host's NeuronCores hold",
    )
    parser.add_argument("--wait", type=float, default=90.0, help="seconds until the model must answer (default: 90)")
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties", help="TorchServe's settings")
    add_trusted(parser)
    add_folders(parser)
    _add_port(parser)
    parser.set_defaults(run=_serve)
    for name, run, text in (
        ("stop", _stop, "stop the server on a port, and no other"),
        ("status", _status, "list this user's servers"),
        ("doctor", _doctor, "look at this machine, or with --log into a log: what is wrong, and what to do"),
    ):
        parser = subparsers.add_parser(name, help=text, description=text)
        if name != "status":
            _add_port(parser)
        if name != "stop":
            parser.add_argument("--json", action="store_true", help="print JSON")
        if name == "doctor":
            text = "explain the known errors of Neuron and TorchServe in this log (- for standard input) instead"
            parser.add_argument(
                "--log", metavar="FILE", help=f"{text}; status 1 if there are any, 2 if it is unreadable"
            )
            _add_exposure(parser)
        parser.set_defaults(run=run)


def _serve(options: argparse.Namespace) -> int:
    from serving.requesting import curl_line
    from serving.server import ServeSettings, ensure_startable, start, stop
    from serving.signing import verify_archive
    from tracing.checking import read_archive_record

    received = interrupts()
    emulate(options)
    ensure_startable(options.port)
    trusted = trusted_keys(options)
    archive = _find_archive(options)
    if trusted:
        report(f"{archive} is signed by key {verify_archive(archive, trusted).key}")
    record = read_archive_record(archive)
    settings = ServeSettings(
        port=options.port,
        config=options.config,
        log=options.log,
        token=options.token,
        workers=options.workers,
        wait=options.wait,
        trusted=trusted,
    )
    served = start(archive, record, settings, progress=report)
    if received:  # and lost on the way: Python drops an exception that is raised in a destructor
        if served.started:
            stop(options.port)
        raise KeyboardInterrupt
    emulated = f", EMULATED ({served.reply.emulated})" if served.reply.emulated else ""
    random = ", RANDOM WEIGHTS (it is not trained)" if record.random_weights else ""
    print(f"{record.name} {record.version} answers {record.golden[0].name}{random}{emulated}:")
    print(served.reply.text)
    print("Repeat it:")
    print(f"  {curl_line(served.client, record.name, record.golden[0], served.file)}")
    port = "" if options.port == 8080 else f" PORT={options.port}"
    print(f"Stop it:\n  make stop{port}")
    return 0


def _find_archive(options: argparse.Namespace) -> Path:
    if not options.model.endswith(".mar"):
        folders = {"store": options.store, "build": options.build}
        return ensure_archive(options.model, options.target, **folders, weights=options.weights)
    if options.weights is not None:
        raise KitError(f"{options.model} has its weights inside; --weights is for a recipe, from which it is built")
    return Path(options.model).resolve()  # as it is: built on another machine, say


def interrupts() -> list[int]:
    """Let the command be ended by `timeout` or a closed terminal as by Ctrl-C, and return the signals from now on."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) is not signal.SIG_IGN:  # as nohup, or a shell's background job, has asked for
            signal.signal(each, interrupt)
    return received


def _stop(options: argparse.Namespace) -> int:
    from serving.server import stop

    state = stop(options.port)
    if state is None:
        print(f"no server of ours runs on port {options.port}")
    else:
        print(f"stopped {state.model} on port {state.port} (process {state.pid})")
    return 0


def _status(options: argparse.Namespace) -> int:
    from serving.requesting import Client
    from serving.runs import RunFolder, list_servers

    rows = []
    for state in list_servers():
        client = Client(state.port, RunFolder(state.port).path)
        described = client.describe(state.model, customized=True, timeout=5)
        worker = described[0].get("customizedMetadata", {}) if described else {}
        workers = [each["status"] for each in described[0]["workers"]] if described else []
        rows.append({**dataclasses.asdict(state), "workers": workers, "one_worker": worker})
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no server of ours runs")
    for row in [] if options.json else rows:
        print(_format_server(row))
    return 0


def _format_server(row: dict[str, Any]) -> str:
    """Return a server as a line; Any: JSON of its run state and of one worker."""
    worker, instance = row["one_worker"], row["settings"].get("emulated")
    target = f" for {worker['target']}" if "target" in worker else ""
    emulated = f", EMULATED ({instance})" if instance else ""
    random = ", RANDOM WEIGHTS" if worker.get("random_weights") else ""
    state = f"{len(row['workers'])} workers, {worker.get('status', 'no answer')}{random}{emulated}"
    passed_over = "".join(f"\n  passed over {reason}" for reason in worker.get("passed_over", []))
    return f"{row['port']}  {row['model']}{target}  process {row['pid']}  {state}{passed_over}"


def _add_exposure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a running server as a stranger sees it; status 1 if there is an error")
    group.add_argument("--server", metavar="URL", help="look at this server instead: http(s)://HOST:PORT of inference")
    group.add_argument("--management", metavar="URL", default="", help="default: the next port (and 8081, not here)")
    group.add_argument("--metrics", metavar="URL", default="", help="default: the port after that (and 8082, not here)")
    group.add_argument(
        "--grpc", metavar="PORT,PORT", type=_two_ports, default=(7070, 7071), help="(default: 7070,7071)"
    )
    group.add_argument("--token", metavar="FILE", type=Path, help="TorchServe's key_file.json, or a file with one key")
    group.add_argument("--model", metavar="NAME", default="", help="ask this model for an answer to an empty request")
    text = "also let the server try to fetch a URL of the doctor's own, where nothing is, and hold one slow connection"
    group.add_argument("--active", action="store_true", help=text)
    group.add_argument("--seconds", type=_seconds, default=5.0, help="for each answer (default: 5)")


def _doctor(options: argparse.Namespace) -> int:
    from serving.doctor import ERROR, examine
    from serving.exposure_local import examine_own

    if options.log is not None:
        return _explain_log(options)
    if options.server is not None:
        return _look_at_server(options)
    findings = [*examine(options.port, ROOT / "model_store"), *examine_own(options.port)]
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            advice = f" -> {finding.advice}" if finding.advice else ""
            print(f"{_MARKS[finding.level]} {finding.what:<22} {finding.found}{advice}")
    return 1 if any(finding.level == ERROR for finding in findings) else 0


def _look_at_server(options: argparse.Namespace) -> int:
    from serving.exposure import ERROR, examine_server
    from serving.exposure_look import prepare
    from serving.exposure_report import format_report

    look = prepare(
        options.server,
        management=options.management,
        metrics=options.metrics,
        grpc=options.grpc,
        token=options.token,
        model=options.model,
        active=options.active,
        seconds=options.seconds,
    )
    findings = examine_server(look)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print(format_report(look, findings))
    return 1 if any(finding.level == ERROR for finding in findings) else 0


def _explain_log(options: argparse.Namespace) -> int:
    from serving.diagnosis import read_log
    from serving.diagnosis_report import format_report

    name = "standard input" if options.log == "-" else options.log
    try:
        if options.log == "-":
            found = read_log(sys.stdin.buffer)
        else:
            with Path(options.log).open("rb") as stream:
                found = read_log(stream)
    except OSError as exc:
        print(f"error: {name}: {exc.strerror}; expected a log, or - for standard input", file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(found), indent=2) if options.json else format_report(name, found))
    return 1 if found.diagnoses else 0


def _add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=8080, help="of inference; the next two follow (default: 8080)")


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65533:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected 1 to 65533, because two more follow it")
    return int(text)


def _two_ports(text: str) -> tuple[int, int]:
    numbers = [int(each) for each in text.split(",") if each.isdigit() and 1 <= int(each) <= 65535]
    if len(numbers) != 2 or text.count(",") != 1:
        raise argparse.ArgumentTypeError(f"{text!r} are no two ports; expected gRPC's, as in 7070,7071")
    return numbers[0], numbers[1]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 600:  # no number among them
        raise argparse.ArgumentTypeError(f"{text!r} is no time limit; expected 0.1 to 600 seconds")
    return seconds
