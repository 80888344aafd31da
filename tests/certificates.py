"""Certificates for servers in tests: signed by themselves, for 127.0.0.1, made by openssl where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, *, days: int = 365) -> tuple[Path, Path]:
    """Return the files of a certificate and of its key, in PEM; skip the test without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not installed")
    certificate, key = folder / f"certificate-{days}.pem", folder / f"key-{days}.pem"
    words = f"req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days {days} -subj /CN=127.0.0.1"
    command = ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
