"""Entry point of ``torchserve-neuron``."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cli import benching, buckets, building, gating, images, planning, serving, signing
from handlers.errors import KitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="torchserve-neuron",
        description="From a trained PyTorch model to a REST service with TorchServe, on a CPU or AWS Inferentia.",
    )
    parser.add_argument("--version", action="version", version=f"torchserve-neuron {_version()}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    building.register(subparsers)
    serving.register(subparsers)
    planning.register(subparsers)
    buckets.register(subparsers)
    images.register(subparsers)
    signing.register(subparsers)
    benching.register(subparsers)
    gating.register(subparsers)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except KitError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough.
        return 0


def _version() -> str:
    try:
        return version("torchserve-neuron")
    except PackageNotFoundError:
        return "(not installed; run from its folder)"


if __name__ == "__main__":
    sys.exit(main())
