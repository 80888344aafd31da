"""The commands about signatures of archives: keygen, sign, verify; and the option that demands them."""

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import Any

from serving.signing import PASSPHRASE_VARIABLE, TRUSTED_VARIABLE, SigningError

_Subparsers = Any  # argparse's own type for this is private


def register(subparsers: _Subparsers) -> None:
    """Add the commands of this module."""
    text = "make a key to sign archives with: a private half to keep, a public one for hosts that serve"
    parser = subparsers.add_parser("keygen", help=text, description=text)
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where private.pem, public.pem go")
    text = f"encrypt the private half: asks for a passphrase, or takes it from {PASSPHRASE_VARIABLE}"
    parser.add_argument("--passphrase", action="store_true", help=text)
    parser.set_defaults(run=_keygen)
    text = "sign an archive: writes NAME.mar.sig beside it"
    parser = subparsers.add_parser("sign", help=text, description=text)
    parser.add_argument("archive", metavar="FILE", type=Path, help="a .mar file")
    text = f"the private half; the passphrase of an encrypted one is asked for, or taken from {PASSPHRASE_VARIABLE}"
    parser.add_argument("--key", metavar="FILE", type=Path, required=True, help=text)
    parser.set_defaults(run=_sign)
    text = "say by which trusted key an archive is signed; status 1 if by none, or if anything was altered"
    parser = subparsers.add_parser("verify", help=text, description=text)
    parser.add_argument("archive", metavar="FILE", type=Path, help="a .mar file, with FILE.sig beside it")
    add_trusted(parser)
    parser.set_defaults(run=_verify)


def add_trusted(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the keys an archive must be signed with."""
    text = (
        "take only archives that one of these keys has signed: a public key's file, or a folder of *.pem; may be given "
        f"several times (default: {TRUSTED_VARIABLE}, if set)"
    )
    parser.add_argument("--trusted", metavar="KEYS", type=Path, action="append", default=[], help=text)


def trusted_keys(options: argparse.Namespace) -> tuple[Path, ...]:
    """Return where the trusted keys are; none if neither the options nor the host demand signatures."""
    from serving.signing import find_trusted

    return find_trusted(options.trusted, os.environ.get(TRUSTED_VARIABLE))


def _keygen(options: argparse.Namespace) -> int:
    from serving.signing import create_keys

    pair = create_keys(options.out, passphrase=_new_passphrase() if options.passphrase else b"")
    print(f"key {pair.key}")
    print(f"  {pair.private}: keep it where archives are signed, and a copy where nobody looks; never on a server")
    print(f"  {pair.public}: copy it to the hosts that serve, into the folder that --trusted names")
    return 0


def _sign(options: argparse.Namespace) -> int:
    from serving.signatures import signature_path
    from serving.signing import load_private_key, sign_archive

    signed = sign_archive(options.archive, load_private_key(options.key, ask=_ask_passphrase))
    print(f"{signature_path(options.archive)}: {signed.statement.model} {signed.statement.version}, key {signed.key}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from serving.signing import verify_archive

    trusted = trusted_keys(options)
    if not trusted:
        raise SigningError(f"verify needs the keys that are trusted; name them with --trusted, or {TRUSTED_VARIABLE}")
    signed = verify_archive(options.archive, trusted)
    stated = signed.statement
    print(f"{options.archive}: signed by key {signed.key}")
    print(f"  model {stated.model} {stated.version}, file name {stated.archive}")
    print(f"  all {stated.archive_size:,} bytes, sha256 {stated.archive_sha256}")
    print(f"  among them the list of all files' digests, artifact.json, sha256 {stated.record_sha256}")
    return 0


def _ask_passphrase() -> bytes:
    return _read_passphrase("Passphrase of the key: ")


def _new_passphrase() -> bytes:
    """Return a passphrase that was typed twice alike, or the environment's; an empty one would encrypt nothing."""
    passphrase = _read_passphrase("Passphrase for the new key: ")
    if PASSPHRASE_VARIABLE not in os.environ and passphrase != _read_passphrase("Once more: "):
        raise SigningError("the two passphrases differ; no key was made")
    if not passphrase:
        raise SigningError("the passphrase is empty; no key was made. Leave --passphrase out for a key without one")
    return passphrase


def _read_passphrase(prompt: str) -> bytes:
    if PASSPHRASE_VARIABLE in os.environ:
        return os.environ[PASSPHRASE_VARIABLE].encode()
    if not sys.stdin.isatty():
        raise SigningError(f"the key wants a passphrase, and there is no terminal to ask; set {PASSPHRASE_VARIABLE}")
    return getpass.getpass(prompt).encode()
