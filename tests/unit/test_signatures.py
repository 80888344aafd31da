"""What passes for a signed archive, and everything that must not; in the kit's copy and the image's."""

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from serving import signatures
from serving.signatures import SignatureFault, load_trusted, read_signature, verify, verify_archive
from serving.signing import KeyPair
from tests.archives import flip_byte, read_members, tamper, write_members
from tests.signed import make_keys, sign, small_archive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """The trusted key."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """A key that nobody trusts."""
    return make_keys(tmp_path_factory.mktemp("others"))


@pytest.fixture
def archive(tmp_path: Path, keys: KeyPair) -> Path:
    """A signed archive that a test may change."""
    archive = small_archive(tmp_path / "store")
    sign(archive, keys)
    return archive


def fault(archive: Path, keys: KeyPair) -> str:
    with pytest.raises(SignatureFault) as caught:
        verify_archive(archive, [keys.public])
    return str(caught.value)


def test_a_signed_archive_gives_the_id_of_the_key(archive, keys):
    """And the statement says what it is."""
    assert verify_archive(archive, [keys.public]) == keys.key
    assert verify(archive, [keys.public]).statement.model == "tiny"


def test_the_images_copy_is_the_kits_file():
    """One text in two places, because the image is without the kit and the kit's package without ``docker``."""
    copy = ROOT / "docker" / "entrypoint" / "signatures.py"
    assert copy.read_bytes() == (ROOT / "serving" / "signatures.py").read_bytes()


def test_it_runs_without_the_kit(archive, keys, tmp_path):
    """In an interpreter that sees the entrypoint's folder alone."""
    script = """
        import sys; sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import signatures
        assert "cryptography" not in sys.modules
        print(signatures.verify_archive(Path(sys.argv[2]), [Path(sys.argv[3])]))
        assert "handlers" not in sys.modules
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(script), str(ROOT / "docker" / "entrypoint")]
    done = subprocess.run([*command, archive, keys.public], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == (keys.key, "")


def test_no_signature(archive, keys):
    """The message says which file was looked for and how to make it."""
    signatures.signature_path(archive).unlink()
    assert "tiny.mar is not signed: there is no" in fault(archive, keys)


def test_the_signature_of_an_unknown_key(archive, keys, others):
    """With the ids of both."""
    sign(archive, others)
    assert f"is of key {others.key}, which is not trusted here (trusted: {keys.key})" in fault(archive, keys)


def test_the_trusted_keys_id_on_another_keys_signature(archive, keys, others):
    """The id only finds the key; the key decides."""
    path = sign(archive, others)
    path.write_text(path.read_text().replace(others.key, keys.key))
    assert f"was altered: key {keys.key} did not sign what it says" in fault(archive, keys)


def test_every_changed_member_is_found(archive, keys, tmp_path):
    """Whatever the member, the entry script and the manifest included."""
    for name in read_members(archive):
        copy = tamper(archive, tmp_path / "copy" / archive.name, {name: flip_byte(0)})
        shutil.copy(signatures.signature_path(archive), copy.parent)
        assert "was altered after it was signed: sha256 " in fault(copy, keys), name


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members | {"extra.py": b"import os"},
        lambda members: {name: content for name, content in members.items() if name != "modules/b.pt"},
        lambda members: {name.replace("b.pt", "c.pt"): content for name, content in members.items()},
        lambda members: dict(reversed(members.items())),
    ],
    ids=["added", "removed", "renamed", "reordered"],
)
def test_other_members_are_found(archive, keys, change):
    """Not even their order may differ."""
    write_members(change(read_members(archive)), archive)
    assert "was altered after it was signed" in fault(archive, keys)


@pytest.mark.parametrize(
    "change",
    [lambda raw: raw + b"\0", lambda raw: b"\0" + raw, lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:100]],
    ids=["appended", "prepended", "cut", "empty", "start only"],
)
def test_another_length_is_found_before_anything_is_hashed(archive, keys, change):
    """With both lengths."""
    size = archive.stat().st_size
    archive.write_bytes(change(archive.read_bytes()))
    assert f"it has {archive.stat().st_size:,} bytes, {size:,} were signed" in fault(archive, keys)


def test_a_flip_of_any_byte_of_an_archive_is_found(archive, keys):
    """A sample of its bytes, ends included."""
    raw = archive.read_bytes()
    for position in [*range(0, len(raw), 37), len(raw) - 1]:
        archive.write_bytes(flip_byte(position)(raw))
        assert "was altered" in fault(archive, keys)


@pytest.mark.parametrize("bits", [0x01, 0x20])
def test_a_flip_of_any_byte_of_a_signature_is_found(archive, keys, bits):
    """Every byte of it, blanks and the unused bits of base64 included."""
    path = signatures.signature_path(archive)
    raw = path.read_bytes()
    for position in range(len(raw)):
        path.write_bytes(flip_byte(position, bits)(raw))
        assert str(path) in fault(archive, keys), position


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"", r"is no signature \(JSONDecodeError\)"),
        (lambda raw: b"[" * 10_000, r"is no signature \(RecursionError\)"),
        (lambda raw: b"[]", r"is no signature \(TypeError\)"),
        (lambda raw: b"{}", r"is no signature \(KeyError\)"),
        (lambda raw: b"\xff" + raw, r"is no signature \(UnicodeDecodeError\)"),
        (lambda raw: raw[:-10], r"is no signature \(JSONDecodeError\)"),
        (lambda raw: raw.replace(b"signature 1", b"signature 2"), r"has format 'torchserve-neuron signature 2', this"),
        (lambda raw: raw + b"\n", r"was altered: it is not as it was written"),
        (lambda raw: raw.replace(b'"model"', b'"modem"'), r"was altered: it is not as it was written"),
        (lambda raw: raw.replace(b'"1.0"', b"1"), r"was altered: it is not as it was written"),
        (lambda raw: raw.replace(b'"1.0"', b'"2.0"'), r"was altered: key [0-9a-f]{16} did not sign what it says"),
        (lambda raw: raw + b" " * 20_000, r"has over 16,384 bytes"),
    ],
)
def test_what_is_no_signature(archive, keys, change, message):
    """Each fault by its name, never a traceback."""
    path = signatures.signature_path(archive)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SignatureFault, match=message):
        verify_archive(archive, [keys.public])


def test_two_archives_exchange_their_signatures(archive, keys):
    """Both good, neither of the other."""
    other = small_archive(archive.parent, "other", "3.1")
    sign(other, keys).replace(signatures.signature_path(archive))
    assert "is the signature of another archive, other.mar (model other 3.1)" in fault(archive, keys)


def test_an_archive_in_the_place_of_another(archive, keys):
    """A signed archive under another model's name, with its own signature, is refused."""
    path = signatures.signature_path(archive)
    renamed = archive.rename(archive.with_name("other.mar"))
    path.rename(signatures.signature_path(renamed))
    assert "is the signature of another archive, tiny.mar" in fault(renamed, keys)


def test_another_version_of_the_same_archive(archive, keys):
    """The old signature does not cover the new archive of the same name."""
    small_archive(archive.parent, version="2.0")
    assert "was altered after it was signed" in fault(archive, keys)


def test_links_are_followed_to_files(archive, keys, tmp_path):
    """As Kubernetes mounts secrets; what counts is the content."""
    for path in (archive, signatures.signature_path(archive)):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert verify_archive(archive, [keys.public]) == keys.key


@pytest.mark.parametrize("target", ["/dev/zero", "/dev", "gone", "pipe"])
def test_a_signature_that_is_no_file(archive, keys, target):
    """Neither an endless device nor a pipe holds the check up."""
    path = signatures.signature_path(archive)
    path.unlink()
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to(target)
    assert f"{path} is no regular file" in (said := fault(archive, keys)) or f"{path} cannot be read" in said


def test_an_archive_that_is_no_file(archive, keys):
    """Nor does one in the archive's place."""
    archive.unlink()
    assert f"{archive} cannot be read: No such file" in fault(archive, keys)
    os.mkfifo(archive)
    assert f"{archive} is no regular file" in fault(archive, keys)


def test_a_large_archive_takes_little_memory(tmp_path, keys):
    """It is read in pieces: 64 MB with less than 8 MB."""
    archive = small_archive(tmp_path)
    statement = read_signature(sign(archive, keys).with_suffix("")).statement
    os.truncate(archive, 64_000_000)
    tracemalloc.start()
    with archive.open("rb") as stream:
        large = signatures.dataclasses.replace(statement, archive_size=64_000_000)
        assert signatures._compare(stream, large, None).startswith("sha256 ")
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_the_copy_is_what_was_verified(archive, keys, tmp_path):
    """And for its owner's eyes only."""
    verify_archive(archive, [keys.public], copy=tmp_path / "copy.mar")
    assert (tmp_path / "copy.mar").read_bytes() == archive.read_bytes()
    assert (tmp_path / "copy.mar").stat().st_mode & 0o777 == 0o400


def test_nothing_is_left_of_a_copy_that_failed(archive, keys, tmp_path):
    """Nobody serves half of it, or what was altered."""
    archive.write_bytes(flip_byte(5)(archive.read_bytes()))
    with pytest.raises(SignatureFault, match="was altered after it was signed"):
        verify_archive(archive, [keys.public], copy=tmp_path / "copy.mar")
    assert not (tmp_path / "copy.mar").exists()


def test_a_copy_never_goes_over_a_file(archive, keys, tmp_path):
    """What is there stays."""
    (tmp_path / "copy.mar").write_text("mine")
    with pytest.raises(SignatureFault, match=r"cannot be read or copied: .*File exists"):
        verify_archive(archive, [keys.public], copy=tmp_path / "copy.mar")
    assert (tmp_path / "copy.mar").read_text() == "mine"


def test_a_folder_of_keys_trusts_each(archive, keys, others, tmp_path):
    """Two keys at once, while one replaces the other; hidden entries and other names do not count."""
    for name, pair in (("old.pem", others), ("new.pem", keys)):
        shutil.copy(pair.public, tmp_path / name)
    for name in (".hidden.pem", "README.txt"):
        (tmp_path / name).write_text("no key")
    assert set(load_trusted([tmp_path])) == {keys.key, others.key}
    assert verify_archive(archive, [tmp_path]) == keys.key


def test_no_key_trusts_nobody(archive, tmp_path):
    """An empty folder, or an empty list, is no leave to serve anything."""
    with pytest.raises(SignatureFault, match="no trusted key is named"):
        verify_archive(archive, [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SignatureFault, match="holds no public key; expected files"):
        verify_archive(archive, [tmp_path / "empty"])


def rsa_key(pair: KeyPair) -> bytes:
    form = (forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    return generate_private_key(65537, 1024).public_key().public_bytes(*form)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pair: pair.private.read_bytes(), "is a private key, which no host that serves should have"),
        (rsa_key, "is a public key of the kind RSA; expected Ed25519"),
        (lambda pair: b"", "is not one public key; expected one PEM block"),
        (lambda pair: b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me", "is not one public key"),
        (lambda pair: pair.public.read_bytes() * 2, "is not one public key"),
        (lambda pair: pair.public.read_bytes().replace(b"PUBLIC KEY", b"CERTIFICATE"), "is not one public key"),
        (lambda pair: pair.public.read_bytes()[:60] + b"\n-----END PUBLIC KEY-----\n", "is a damaged public key"),
        (lambda pair: b"\0" * 20_000, "has over 16,384 bytes"),
    ],
    ids=["private", "RSA", "empty", "ssh", "two", "certificate", "cut", "large"],
)
def test_what_is_no_trusted_key(archive, keys, tmp_path, make, message):
    """A file in the folder that is none stops everything, beside a good one too."""
    shutil.copy(keys.public, tmp_path / "good.pem")
    (tmp_path / "bad.pem").write_bytes(make(keys))
    with pytest.raises(SignatureFault, match=f"bad.pem {message}"):
        verify_archive(archive, [tmp_path])


@pytest.mark.parametrize("what", ["file", "folder"])
def test_keys_that_everybody_may_change(archive, keys, tmp_path, what):
    """Trust that any user of the host could extend is none."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    key = Path(shutil.copy(keys.public, folder / "a.pem"))
    open_to_all = key if what == "file" else folder
    open_to_all.chmod(0o777)
    with pytest.raises(SignatureFault, match=f"every user may write to {open_to_all}, and so trust a key"):
        verify_archive(archive, [folder])


def test_a_missing_key_is_named(archive, tmp_path):
    """The file that was to be trusted."""
    with pytest.raises(SignatureFault, match=r"gone.pem cannot be read: No such file"):
        verify_archive(archive, [tmp_path / "gone.pem"])


def test_a_signature_of_something_else_is_none_of_an_archive(archive, keys):
    """A key that signs the bare statement, for another program, has signed no archive."""
    private = forms.load_pem_private_key(keys.private.read_bytes(), None)
    good = read_signature(archive)
    bare = good.statement.to_sign().removeprefix(signatures._DOMAIN)
    forged = signatures.dataclasses.replace(good, value=private.sign(bare))
    signatures.signature_path(archive).write_bytes(forged.render())
    assert "did not sign what it says" in fault(archive, keys)


def test_without_cryptography_the_message_says_what_to_install(archive, keys):
    """A host that demands signatures and cannot verify them serves nothing."""
    script = """
        import sys; sys.modules["cryptography"] = None; sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        import signatures
        try:
            signatures.verify_archive(Path(sys.argv[2]), [Path(sys.argv[3])])
        except signatures.SignatureFault as exc:
            print(exc)
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(script), str(ROOT / "serving"), archive, keys.public]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "install the package cryptography" in done.stdout, done.stderr
    assert importlib.util.find_spec("cryptography")
