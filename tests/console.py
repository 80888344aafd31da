"""The console command, run as a user runs it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_console(environment: Mapping[str, str], *words: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Return what the command did with these words."""
    command = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(
        command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=timeout, check=False
    )
