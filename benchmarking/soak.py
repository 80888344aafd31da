"""Load and faults on a real server of this machine, bounded and on loopback only: ``python -m benchmarking.soak``.

Ends with status 0 if no answer was wrong, no request was lost and nothing grew; the report says what was seen.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarking.soaking import archives, reporting
from benchmarking.soaking.running import Soak, SoakSettings, say
from serving.emulation import emulated_environment, enable_emulation
from serving.server import ROOT

# The smallest with room for two models of two workers, a third one, two that come and go, and one of two versions.
_INSTANCES = {"inf1": "inf1.6xlarge", "inf2": "inf2.24xlarge"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one soak and return its exit status: 0 passed, 1 failed, 130 interrupted."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    instance, environment = "", {}
    if options.target != "cpu":
        instance = enable_emulation(options.instance or _INSTANCES[options.target], [options.target])
        environment = emulated_environment(os.environ, instance)
        say(f"EMULATED: {instance}; no chip computes anything here")
    settings = SoakSettings(
        minutes=options.minutes,
        rate=options.rate,
        clients=options.clients,
        pause=options.pause,
        seed=options.seed,
        target=options.target,
        instance=instance,
    )
    try:
        built = archives.build(options.models.split(","), options.target, options.build / options.target, say)
        report = Soak(settings, built, say).run(environment)
    except KeyboardInterrupt:
        say("interrupted; the server is stopped, nothing was written")
        return 130
    reporting.write(report, options.output, options.page)
    print(reporting.render(report))
    return 1 if report["problems"] else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description="Load and faults on a server of this machine.")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default: 20)")
    parser.add_argument("--models", default="cifar10,tiny", help="shipped recipes (default: cifar10,tiny)")
    parser.add_argument("--target", choices=("cpu", "inf1", "inf2"), default="cpu", help="chips are emulated")
    parser.add_argument("--instance", default="", help="instance type to emulate")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second, at most (default: 15)")
    parser.add_argument("--clients", type=int, default=12, help="threads that send (default: 12)")
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between two faults (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="of traffic and schedule (default: 0)")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "soak", help="folder of the archives")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "soak", help="folder of soak.json, soak.md")
    parser.add_argument("--page", type=Path, help="page to write the report into, below its mark")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
