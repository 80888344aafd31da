"""The commands about signatures, and the option that demands them, as a person or a script calls them."""

import shutil
from pathlib import Path

import pytest

from cli.main import main
from tests.archives import tamper
from tests.servers import RECIPES
from tests.signed import small_archive

TRUSTED = "TORCHSERVE_NEURON_TRUSTED_KEYS"
PASSPHRASE = "TORCHSERVE_NEURON_KEY_PASSPHRASE"


@pytest.fixture(autouse=True)
def _no_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TRUSTED, PASSPHRASE):
        monkeypatch.delenv(name, raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(each) for each in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path, str]:
    """A signed archive, the public key alone in a folder, and the key's id, all made by the commands."""
    archive = small_archive(tmp_path / "store")
    out = run(capsys, "keygen", "--out", tmp_path / "keys")[1]
    assert run(capsys, "sign", archive, "--key", tmp_path / "keys" / "private.pem")[0] == 0
    (tmp_path / "trusted").mkdir()
    shutil.copy(tmp_path / "keys" / "public.pem", tmp_path / "trusted" / "release.pem")
    return archive, tmp_path / "trusted", out.split()[1]


def test_keygen_prints_the_id_and_what_to_do_with_the_files(capsys, tmp_path):
    """Which half goes where."""
    status, out, _ = run(capsys, "keygen", "--out", tmp_path)
    assert (status, out.splitlines()[0].partition(" ")[0], len(out.splitlines()[0])) == (0, "key", 20)
    assert f"{tmp_path / 'private.pem'}: keep it where archives are signed" in out
    assert f"{tmp_path / 'public.pem'}: copy it to the hosts that serve" in out


def test_keygen_overwrites_nothing(capsys, tmp_path):
    """A lost key signs nothing any more."""
    run(capsys, "keygen", "--out", tmp_path)
    before = (tmp_path / "private.pem").read_bytes()
    status, _, err = run(capsys, "keygen", "--out", tmp_path)
    assert (status, (tmp_path / "private.pem").read_bytes()) == (1, before)
    assert "private.pem is there already; a key is never overwritten" in err


def test_sign_says_what_it_has_signed(capsys, tmp_path):
    """File, model, version, key."""
    archive = small_archive(tmp_path, version="2.1")
    key = run(capsys, "keygen", "--out", tmp_path / "keys")[1].split()[1]
    status, out, _ = run(capsys, "sign", archive, "--key", tmp_path / "keys" / "private.pem")
    assert (status, out) == (0, f"{archive}.sig: tiny 2.1, key {key}\n")


@pytest.mark.parametrize("where", ["folder", "file", "environment"])
def test_verify_says_by_whom_and_over_what(capsys, signed, monkeypatch, where):
    """Trusted keys in a folder, one by its file, or those that the host demands."""
    archive, trusted, key = signed
    monkeypatch.setenv(TRUSTED, str(trusted)) if where == "environment" else None
    named = {"folder": ["--trusted", trusted], "file": ["--trusted", trusted / "release.pem"], "environment": []}
    status, out, _ = run(capsys, "verify", archive, *named[where])
    assert (status, out.splitlines()[0]) == (0, f"{archive}: signed by key {key}")
    assert f"all {archive.stat().st_size:,} bytes, sha256" in out


def test_verify_of_an_altered_archive_fails(capsys, signed):
    """Status 1, one line, no traceback."""
    archive, trusted, _ = signed
    archive.write_bytes(archive.read_bytes() + b"\0")
    status, out, err = run(capsys, "verify", archive, "--trusted", trusted)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {archive} was altered after it was signed: it has ")


def test_verify_without_keys_is_refused(capsys, signed):
    """Nothing to compare with is no success."""
    status, _, err = run(capsys, "verify", signed[0])
    assert (status, err.startswith("error: verify needs the keys that are trusted; name them")) == (1, True)


def test_a_passphrase_from_the_environment(capsys, tmp_path, monkeypatch):
    """As a build machine gives it; without it the key is of no use."""
    archive = small_archive(tmp_path)
    monkeypatch.setenv(PASSPHRASE, "secret")
    run(capsys, "keygen", "--out", tmp_path / "keys", "--passphrase")
    sign = ("sign", archive, "--key", tmp_path / "keys" / "private.pem")
    assert b"ENCRYPTED" in (tmp_path / "keys" / "private.pem").read_bytes()
    assert run(capsys, *sign)[0] == 0
    monkeypatch.setenv(PASSPHRASE, "wrong")
    assert "its passphrase is another, or it is damaged" in run(capsys, *sign)[2]


def test_an_encrypted_key_without_terminal_or_environment(tmp_path, monkeypatch, capsys):
    """The message says what to set; nothing waits for an answer that cannot come."""
    monkeypatch.setenv(PASSPHRASE, "secret")
    run(capsys, "keygen", "--out", tmp_path / "keys", "--passphrase")
    monkeypatch.delenv(PASSPHRASE)
    sign = ("sign", small_archive(tmp_path), "--key", tmp_path / "keys" / "private.pem")
    status, _, err = run(capsys, *sign)
    assert (status, f"there is no terminal to ask; set {PASSPHRASE}" in err) == (1, True)


def test_an_empty_passphrase_is_none(capsys, tmp_path, monkeypatch):
    """Whoever asked for one does not get a key without."""
    monkeypatch.setenv(PASSPHRASE, "")
    status, _, err = run(capsys, "keygen", "--out", tmp_path / "keys", "--passphrase")
    assert (status, "the passphrase is empty; no key was made" in err) == (1, True)
    assert not (tmp_path / "keys").exists()


WORDS = {
    "serve": ["serve", "ARCHIVE", "--port", "20001"],
    "check": ["check", "ARCHIVE"],
    "predict": ["predict", "ARCHIVE", str(RECIPES / "tiny_red.png")],
}


@pytest.mark.parametrize("command", list(WORDS))
@pytest.mark.parametrize("demand", ["option", "host"])
def test_no_command_runs_the_code_of_an_unsigned_archive(capsys, signed, tmp_path, monkeypatch, command, demand):
    """The archive's entry would leave a file; whether the option or the host demands a signature."""
    archive, trusted, _ = signed
    trap = tmp_path / "trap"
    bad = tamper(
        archive,
        tmp_path / "bad" / archive.name,
        {"torchserve_entry.py": lambda _: f"open({str(trap)!r}, 'w')".encode()},
    )
    words = [str(bad) if word == "ARCHIVE" else word for word in WORDS[command]]
    monkeypatch.setenv(TRUSTED, str(trusted)) if demand == "host" else None
    status, out, err = run(capsys, *words, *(["--trusted", trusted] if demand == "option" else []))
    assert (status, out) == (1, "")
    assert f"error: {bad} is not signed: there is no {bad}.sig; sign it where it was built" in err
    assert not trap.exists()


def test_a_signed_archive_is_checked(capsys, tiny_archive, tmp_path, signed):
    """With a line that says by which key it is signed."""
    archive = Path(shutil.copy(tiny_archive, tmp_path))
    run(capsys, "sign", archive, "--key", tmp_path / "keys" / "private.pem")
    status, out, err = run(capsys, "check", archive, "--trusted", signed[1])
    assert (status, out) == (0, f"{archive}: tiny 1.0 is fit to be served\n")
    assert f"{archive} is signed by key {signed[2]}" in err
