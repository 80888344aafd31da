"""Zips that two programs could read differently, each found by its fault."""

import io
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.zip_layout import find_layout_faults

END = b"PK\5\6\0\0\0\0\3\0\3\0"  # of three members
FEWER = b"PK\5\6\0\0\0\0\2\0\3\0"
CONTENT = {"a.txt": b"first", "folder/b.txt": b"second", "ü.txt": b"third"}


def make_zip(members: dict[str, bytes] | None = None, **fields: object) -> bytes:
    """Return a zip as the kit packs it; ``fields`` of the last member are set otherwise."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in (members or CONTENT).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            opened.writestr(info, content)
        for name, value in fields.items():
            setattr(opened.filelist[-1], name, value)
    return stream.getvalue()


def faults(raw: bytes) -> str:
    return "; ".join(find_layout_faults(io.BytesIO(raw)))


def test_a_plain_zip_has_no_faults():
    """Also with a name beyond ASCII."""
    assert faults(make_zip()) == ""


def test_a_built_archive_has_no_faults(tiny_archive: Path):
    """What the kit packs, it signs."""
    with tiny_archive.open("rb") as stream:
        assert find_layout_faults(stream) == []


def test_a_zip_with_64_bit_fields_has_no_faults(monkeypatch: pytest.MonkeyPatch):
    """An archive over 2 GB; here the limit is lowered instead."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    raw = make_zip()
    assert b"PK\6\6" in raw
    assert b"PK\6\7" in raw
    assert faults(raw) == ""
    assert "another directory" in faults(raw.replace(END, FEWER))


def insert(raw: bytes, before: bytes, what: bytes) -> bytes:
    """Put bytes before the last occurrence of a mark and let the end of the directory know of it."""
    at = raw.rindex(before)
    changed = bytearray(raw[:at] + what + raw[at:])
    if before == b"PK\1\2":
        at = raw.index(before)
        changed = bytearray(raw[:at] + what + raw[at:])
        struct.pack_into("<I", changed, len(changed) - 6, at + len(what))
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"#!/bin/sh\n" + raw, "10 bytes before member 'a.txt' are of none"),
        (lambda raw: insert(raw, b"PK\1\2", b"hidden"), "6 bytes after the last member are of none"),
        (lambda raw: raw + b"\0", "follow the end of the directory"),
        (lambda raw: raw[:-2] + b"\2\0hi", "follow the end of the directory"),
        (lambda raw: raw.replace(b"a.txt", b"z.txt", 1), "'a.txt' is named b'z.txt' in its own header"),
        (lambda raw: raw.replace(b"first", b"First"), ""),  # the checksum, when it is read
        (lambda raw: raw[:14] + b"\0\0\0\0" + raw[18:], "'a.txt' has another size or checksum in its own header"),
        (lambda raw: raw[:6] + b"\1" + raw[7:], "is encrypted, streamed or compressed"),
        (lambda raw: raw.replace(END, FEWER), "its end states another"),
    ],
)
def test_what_two_programs_would_read_differently(change: Callable[[bytes], bytes], message: str):
    """Bytes between members, two names for one, lengths and counts that do not agree."""
    said = faults(change(make_zip()))
    assert (message in said) if message else said == ""


def test_a_member_outside_the_directory_is_found():
    """It would be unpacked by a program that reads from the start, and seen by no other."""
    raw = make_zip()
    hidden = make_zip({"hidden.py": b"import os"})
    local = hidden[: hidden.index(b"PK\1\2")]
    assert f"{len(local)} bytes after the last member" in faults(insert(raw, b"PK\1\2", local))


def test_two_members_over_the_same_bytes_are_found():
    """The directory names one place twice."""
    assert "bytes before member" in faults(make_zip(header_offset=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"comment": b"hello"}, "has fields that archives have not"),
        ({"extra": b"\x75\x70\x02\x00ab"}, "has fields that archives have not"),  # Info-ZIP's other name
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "is no regular file"),
        ({"external_attr": (stat.S_IFCHR | 0o600) << 16}, "is no regular file"),
        ({"compress_size": 4}, "has another size or checksum"),
        ({"flag_bits": 0x808}, "is encrypted, streamed or compressed"),
    ],
)
def test_a_member_that_is_not_plain(fields: dict[str, object], message: str):
    """Links, devices, comments, second names."""
    assert message in faults(make_zip(**fields))


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../b", "a//b", "./a", "a/", "a\\b", "C:a", "a\nb", ".."])
def test_a_name_that_leads_elsewhere(name: str):
    """Absolute, upwards, of Windows, of control characters, or two names of one file."""
    assert "is not a plain path inside the archive's folder" in faults(make_zip({"x": b"", name: b""}))


def test_a_name_that_ends_for_one_program_only():
    """Python cuts a name at a zero byte, others do not."""
    raw = make_zip({"a.pyX.txt": b"code"}).replace(b"a.pyX", b"a.py\0")
    assert "is not a plain path" in faults(raw)


def test_one_name_twice_is_found():
    """Java takes the last, others the first."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened.writestr("a.py", "one")
        opened.writestr("a.py", "two")
    assert "member 'a.py' is there 2 times" in faults(stream.getvalue())


def test_a_file_in_the_place_of_a_folder_is_found():
    """One of them would win, by the order of unpacking."""
    assert "member 'a' is a file and a folder" in faults(make_zip({"a": b"", "a/b": b""}))


def test_a_compressed_member_is_found():
    """Archives are packed without: behind a compressed stream there is room for more."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.py", b"x" * 1000)
    assert "compressed" in faults(stream.getvalue())


def test_what_is_no_zip_raises():
    """The one fault that is not listed."""
    with pytest.raises(zipfile.BadZipFile):
        find_layout_faults(io.BytesIO(b"no zip at all"))
