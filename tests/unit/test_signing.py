"""Keys, and what is looked at before an archive is signed."""

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from hypothesis import given
from hypothesis import strategies as st

from handlers import integrity
from serving.signatures import Statement, read_signature, signature_path
from serving.signing import (
    MANIFEST,
    KeyPair,
    SigningError,
    create_keys,
    find_trusted,
    load_private_key,
    sign_archive,
    verified,
    verify_archive,
)
from tests.archives import flip_byte, read_members, reseal, tamper, write_members
from tests.signed import make_keys, sign, small_archive

TEXTS = st.text(max_size=20)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """A key pair."""
    return make_keys(tmp_path_factory.mktemp("keys"))


def refusal(archive: Path, keys: KeyPair) -> str:
    with pytest.raises(SigningError) as caught:
        sign(archive, keys)
    assert not signature_path(archive).exists()
    return str(caught.value)


def test_the_same_key_and_archive_give_the_same_bytes(tmp_path, keys):
    """No clock and no chance is in a signature."""
    archive = small_archive(tmp_path)
    first = sign(archive, keys).read_bytes()
    assert sign(archive, keys).read_bytes() == first


def test_a_built_archive_can_be_signed_and_verified(tiny_archive, tmp_path, keys):
    """With what its own record says of it."""
    archive = Path(shutil.copy(tiny_archive, tmp_path))
    sign(archive, keys)
    signed = verify_archive(archive, [keys.public]).statement
    assert (signed.archive, signed.model, signed.version) == ("tiny.mar", "tiny", "1.0")
    assert signed.archive_sha256 == integrity.hash_file(archive)


@given(st.builds(Statement, *[TEXTS] * 2, st.integers(0), *[TEXTS] * 3), st.builds(Statement, *[TEXTS] * 6))
def test_unequal_statements_sign_unequal_bytes(one, other):
    """No two statements share a signature."""
    assert (one.to_sign() == other.to_sign()) == (one == other)


@pytest.mark.parametrize("name", ["golden/0-a.png", "modules/a.pt", MANIFEST, "torchserve_entry.py"])
def test_an_archive_with_a_changed_member_is_not_signed(tmp_path, keys, name):
    """A signer vouches for the digest list, and so looks whether it is true."""
    archive = tamper(small_archive(tmp_path / "good"), tmp_path / "tiny.mar", {name: flip_byte(0)})
    assert f"tiny.mar is not fit to be signed: {name} was changed" in refusal(archive, keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members | {"extra.py": b""}, "extra.py was added"),
        (lambda members: {name: each for name, each in members.items() if name != "modules/b.pt"}, "b.pt is missing"),
        (lambda members: {name: each for name, each in members.items() if name != "artifact.json"}, "has no artifact"),
        (lambda members: members | {"artifact.json": b"{}"}, "has format None"),
        (
            lambda members: members | {"artifact.json": members["artifact.json"].replace(b'"1.0"', b'"1.1"')},
            "artifact.json was changed",
        ),
    ],
)
def test_an_archive_of_other_members_is_not_signed(tmp_path, keys, change, message):
    """The list has to be whole, and about these members."""
    archive = write_members(change(read_members(small_archive(tmp_path / "good"))), tmp_path / "tiny.mar")
    assert message in refusal(archive, keys)


def test_a_manifest_of_another_model_is_not_signed(tmp_path, keys):
    """TorchServe would name the model by it, with every hash right."""
    change = {MANIFEST: lambda raw: raw.replace(b'"tiny"', b'"bert"')}
    archive = reseal(small_archive(tmp_path / "good"), tmp_path / "tiny.mar", change)
    assert "says model ('bert', '1.0'), the record ('tiny', '1.0')" in refusal(archive, keys)


def test_a_zip_with_more_than_its_members_is_not_signed(tmp_path, keys):
    """A script before the zip is an archive to most programs."""
    archive = small_archive(tmp_path)
    archive.write_bytes(b"#!/bin/sh\n" + archive.read_bytes())
    assert "10 bytes before member" in refusal(archive, keys)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4 cut"])
def test_what_is_no_zip_is_not_signed(tmp_path, keys, content):
    """Truncated, empty or something else."""
    (tmp_path / "tiny.mar").write_bytes(content)
    assert "tiny.mar is not fit to be signed: File is not a zip file" in refusal(tmp_path / "tiny.mar", keys)


def test_a_missing_archive_is_named(tmp_path, keys):
    """In the message, as the kit's error."""
    assert f"{tmp_path / 'gone.mar'} cannot be read: No such file" in refusal(tmp_path / "gone.mar", keys)


def test_the_private_half_is_for_its_owner_alone(tmp_path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        pair = create_keys(tmp_path / "new")
    finally:
        os.umask(before)
    assert (pair.private.stat().st_mode & 0o777, pair.public.stat().st_mode & 0o777) == (0o600, 0o644)


@pytest.mark.parametrize("name", ["private.pem", "public.pem"])
def test_a_key_is_never_overwritten(tmp_path, name):
    """Neither half, and nothing is written then."""
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(SigningError, match=f"{name} is there already"):
        create_keys(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_passphrase_opens_its_key_and_no_other_does(tmp_path):
    """The file says by itself that it wants one."""
    pair = create_keys(tmp_path, passphrase=b"right")
    load_private_key(pair.private, ask=lambda: b"right")
    with pytest.raises(SigningError, match="its passphrase is another, or it is damaged"):
        load_private_key(pair.private, ask=lambda: b"wrong")


def test_a_key_that_others_may_read_signs_nothing(tmp_path):
    """It may be anybody's by now."""
    pair = create_keys(tmp_path)
    pair.private.chmod(0o640)
    with pytest.raises(SigningError, match=r"may be used by other users \(mode 0640\); chmod 600"):
        load_private_key(pair.private, ask=bytes)


def elliptic_key() -> bytes:
    form = (forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    return generate_ec(SECP256R1()).private_bytes(*form)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pair: pair.public.read_bytes(), "is the public half, with which nobody can sign"),
        (lambda pair: b"hello", "is no key; expected the file private.pem"),
        (lambda pair: elliptic_key(), "is a private key of the kind EC; expected Ed25519"),
        (lambda pair: pair.private.read_bytes()[:60], "cannot be opened: it is damaged"),
    ],
    ids=["public", "none", "elliptic", "cut"],
)
def test_what_is_no_key_to_sign_with(tmp_path, keys, make, message):
    """Each by what it is instead."""
    path = tmp_path / "key.pem"
    path.write_bytes(make(keys))
    path.chmod(0o600)
    with pytest.raises(SigningError, match=message):
        load_private_key(path, ask=bytes)


def test_a_second_signature_replaces_the_first(tmp_path, keys):
    """The file is always one key's."""
    archive, other = small_archive(tmp_path), make_keys(tmp_path / "other")
    sign(archive, keys)
    sign_archive(archive, load_private_key(other.private, ask=bytes))
    assert read_signature(archive).key == other.key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "tiny.mar", "tiny.mar.sig"]


def test_a_verified_copy_is_there_for_as_long_as_it_is_used(tmp_path, keys):
    """What is done with an archive is done with what was verified."""
    archive = small_archive(tmp_path)
    sign(archive, keys)
    with verified(archive, [keys.public], progress=print) as copy:
        archive.write_bytes(b"changed")
        assert read_members(copy)
    assert not copy.exists()


def test_where_nothing_is_demanded_nothing_is_verified(tmp_path):
    """The archive itself, signed or not."""
    archive = small_archive(tmp_path)
    with verified(archive, [], progress=print) as same:
        assert same == archive


@pytest.mark.parametrize(
    ("named", "demanded", "expected"),
    [
        ((), None, ()),
        ((Path("a"),), None, (Path("a"),)),
        ((), "b:c", (Path("b"), Path("c"))),
        ((Path("a"),), "b", (Path("a"),)),
        ((Path("a"),), "", (Path("a"),)),
    ],
)
def test_which_keys_are_trusted(named, demanded, expected):
    """Those of the command, else those of the host."""
    assert find_trusted(named, demanded) == expected


def test_a_demand_that_names_nothing_is_refused():
    """Someone wanted signatures; an empty value must not switch them off."""
    with pytest.raises(SigningError, match="TORCHSERVE_NEURON_TRUSTED_KEYS is set but empty"):
        find_trusted((), "")
