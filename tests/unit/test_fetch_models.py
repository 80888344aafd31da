"""The init container's script: what it fetches, what it refuses, and what lies in the store afterwards."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.manifests import KUBERNETES

SCRIPT = KUBERNETES / "base" / "fetch-models.sh"
# Object storage that is a folder: the one form of the command that the script uses.
AWS = """#!/bin/sh
set -eu
[ "$1 $2 $3" = "s3 cp --only-show-errors" ]
echo "$4" >>"$REQUESTS"
cp "$BUCKET/${4#s3://bucket/}" "$5"
"""


class Storage:
    """A bucket with the archive tiny.mar, and a store to fill from it."""

    def __init__(self, folder: Path) -> None:
        self.bucket, self.store, self.sums = folder / "bucket", folder / "store", folder / "SHA256SUMS"
        self.requests = folder / "requests"
        self.bucket.joinpath("models").mkdir(parents=True)
        self.store.mkdir()
        self.archive = self.bucket / "models" / "tiny.mar"
        self.archive.write_bytes(b"an archive")
        tool = folder / "bin" / "aws"
        tool.parent.mkdir()
        tool.write_text(AWS)
        tool.chmod(0o755)
        self.environment = {
            "PATH": f"{tool.parent}:{os.environ['PATH']}",
            "MODEL_STORE_URI": "s3://bucket/models/",
            "BUCKET": str(self.bucket),
            "REQUESTS": str(self.requests),
            "SUMS_FILE": str(self.sums),
            "STORE_FOLDER": str(self.store),
        }

    def fetch(self, sums: str) -> "subprocess.CompletedProcess[str]":
        self.sums.write_text(sums)
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)], env=self.environment, capture_output=True, text=True, timeout=20
        )

    def names(self) -> set[str]:
        return {path.name for path in self.store.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The bucket and the empty store."""
    return Storage(tmp_path)


def line(path: Path, *, mark: str = " ") -> str:
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()} {mark}{path.name}\n"


@pytest.mark.parametrize("mark", [" ", "*"])
def test_listed_archives_are_in_the_store(storage: Storage, mark: str) -> None:
    """What sha256sum prints, in text and binary mode, is fetched under its name."""
    run = storage.fetch("# comment\n\n" + line(storage.archive, mark=mark))
    assert run.returncode == 0, run.stderr
    assert (storage.store / "tiny.mar").read_bytes() == b"an archive"


def test_a_list_without_a_last_newline_is_read_to_its_end(storage: Storage) -> None:
    """The last line counts without its newline."""
    assert storage.fetch(line(storage.archive).rstrip("\n")).returncode == 0
    assert storage.names() == {"tiny.mar"}


def test_signatures_come_along(storage: Storage) -> None:
    """A listed .sig lies beside its archive."""
    signature = storage.archive.with_name("tiny.mar.sig")
    signature.write_text("{}")
    assert storage.fetch(line(storage.archive) + line(signature)).returncode == 0
    assert storage.names() == {"tiny.mar", "tiny.mar.sig"}


def test_what_is_not_listed_is_not_fetched(storage: Storage) -> None:
    """Another file of the bucket stays there."""
    storage.archive.with_name("other.mar").write_bytes(b"not asked for")
    assert storage.fetch(line(storage.archive)).returncode == 0
    assert storage.names() == {"tiny.mar"}


def test_an_altered_archive_is_refused(storage: Storage) -> None:
    """A file that is not the listed one never gets an archive's name, and the message shows both digests."""
    listed = line(storage.archive)
    storage.archive.write_bytes(b"another archive")
    run = storage.fetch(listed)
    assert run.returncode == 1
    assert list(storage.store.iterdir()) == []
    assert listed.split()[0] in run.stderr
    assert hashlib.sha256(b"another archive").hexdigest() in run.stderr


def test_a_second_run_fetches_nothing(storage: Storage) -> None:
    """An init container that runs again keeps what is right."""
    for _ in range(2):
        assert storage.fetch(line(storage.archive)).returncode == 0
    assert storage.requests.read_text().splitlines() == ["s3://bucket/models/tiny.mar"]


def test_a_damaged_file_in_the_store_is_fetched_again(storage: Storage) -> None:
    """What an earlier run left behind is not taken on trust."""
    (storage.store / "tiny.mar").write_bytes(b"an arch")
    assert storage.fetch(line(storage.archive)).returncode == 0
    assert (storage.store / "tiny.mar").read_bytes() == b"an archive"


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        ("", "lists no archive"),
        ("# nothing yet\n", "lists no archive"),
        ("0" * 64 + "  notes.txt.sig\n", "could not be fetched"),
        ("0" * 63 + "  tiny.mar\n", "has 63 digits"),
        ("G" * 64 + "  tiny.mar\n", "not a SHA-256"),
        ("0" * 64 + "\n", "no plain file name"),
        ("0" * 64 + "  ../tiny.mar\n", "no plain file name"),
        ("0" * 64 + "  models/tiny.mar\n", "no plain file name"),
        ("0" * 64 + "  -tiny.mar\n", "no plain file name"),
        ("0" * 64 + "  tiny mar.mar\n", "no plain file name"),
        ("0" * 64 + "  absent.mar\n", "s3://bucket/models/absent.mar could not be fetched"),
    ],
)
def test_a_faulty_list_stops_the_pod(storage: Storage, sums: str, said: str) -> None:
    """Each fault ends the script with 1 and its reason, and leaves the store empty."""
    run = storage.fetch(sums)
    assert (run.returncode, storage.names()) == (1, set())
    assert said in run.stderr


def test_the_source_must_be_named(storage: Storage) -> None:
    """Without MODEL_STORE_URI the script says what to set."""
    del storage.environment["MODEL_STORE_URI"]
    run = storage.fetch(line(storage.archive))
    assert run.returncode != 0
    assert "MODEL_STORE_URI" in run.stderr
