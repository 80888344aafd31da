"""Whether a zip file is so plain that every program which reads it finds the same members with the same bytes.

Java unpacks an archive for TorchServe, Python reads it here. Where the two could see different files in one zip, a
signature would vouch for what nobody has looked at; so such a zip is not signed. Layout: PKWARE's APPNOTE.TXT 6.3.
"""

import os
import stat
import struct
import zipfile
from collections import Counter
from pathlib import PurePosixPath
from typing import BinaryIO

_LOCAL = struct.Struct("<4s5H3I2H")  # APPNOTE 4.3.7: signature, version, flags, method, time, date, crc, sizes, lengths
_END = struct.Struct("<4s4H2IH")  # 4.3.16: signature, disks, entries, size and offset of the directory, comment
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sIQI")  # 4.3.15
_SIZES64 = struct.Struct("<2H2Q")  # 4.5.3, as a local header has it
_UTF8 = 0x800
_FULL = 0xFFFFFFFF  # the value stands in the zip64 field


def find_layout_faults(stream: BinaryIO) -> list[str]:
    """Return what in an open zip file could be read in two ways, a sentence each; raise ``zipfile.BadZipFile``."""
    with zipfile.ZipFile(stream) as opened:
        members = sorted(opened.infolist(), key=lambda member: member.header_offset)
        faults = find_name_faults(members)
        end = 0
        for member in members:
            if member.header_offset != end:
                faults.append(f"{abs(member.header_offset - end)} bytes before member {member.filename!r} are of none")
            fault, end = _check_member(stream, member)
            faults += [f"member {member.filename!r} {fault}"] if fault else []
        if opened.start_dir != end:
            faults.append(f"{abs(opened.start_dir - end)} bytes after the last member are of none")
        return faults + _check_end(stream, opened)


def find_name_faults(members: list[zipfile.ZipInfo]) -> list[str]:
    """Return which members are there twice, are no plain files, or would be unpacked elsewhere."""
    faults = []
    for member in members:
        name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
        if str(PurePosixPath(name)) != name or name.startswith("/") or ".." in name.split("/") or _is_odd(name):
            faults.append(f"member {name!r} is not a plain path inside the archive's folder")
        if kind not in (0, stat.S_IFREG):
            faults.append(f"member {name!r} is no regular file, but a link, a folder or a device")
    names = Counter(member.filename for member in members)
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    faults += [f"member {name!r} is there {count} times" for name, count in names.items() if count > 1]
    return faults + [f"member {name!r} is a file and a folder" for name in sorted(folders & set(names))]


def _is_odd(name: str) -> bool:
    return name in ("", ".") or not name.isprintable() or any(each in name for each in "\\:")


def _check_member(stream: BinaryIO, member: zipfile.ZipInfo) -> tuple[str, int]:
    """Return how a member's own header is not what the directory says of it, and where the member ends."""
    stream.seek(member.header_offset)
    raw = stream.read(_LOCAL.size)
    if len(raw) < _LOCAL.size:
        return "has no header", member.header_offset
    mark, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(raw)
    name, extra = stream.read(name_length), stream.read(extra_length)
    end = member.header_offset + _LOCAL.size + name_length + extra_length + member.compress_size
    if _FULL in (packed, size) and len(extra) == _SIZES64.size:
        field, _, size, packed = _SIZES64.unpack(extra)
        extra = b"" if field == 1 else extra
    if mark != b"PK\3\4" or flags & ~_UTF8 or member.flag_bits != flags or method != zipfile.ZIP_STORED:
        return "is encrypted, streamed or compressed, which no member of an archive is", end
    if (method, crc, packed, size) != (
        member.compress_type,
        member.CRC,
        member.compress_size,
        member.file_size,
    ) or packed != size:
        return "has another size or checksum in its own header than in the directory", end
    if name != member.orig_filename.encode("utf-8" if flags & _UTF8 else "cp437"):
        return f"is named {name!r} in its own header", end
    return "has fields that archives have not" if extra or _foreign_fields(member) else "", end


def _foreign_fields(member: zipfile.ZipInfo) -> bool:
    """Whether the directory's entry has a comment or fields but zip64's: one of them could give another name."""
    fields = member.extra
    if fields[:2] == b"\1\0" and len(fields) >= 4:
        fields = fields[4 + int.from_bytes(fields[2:4], "little") :]
    return bool(fields or member.comment)


def _check_end(stream: BinaryIO, opened: zipfile.ZipFile) -> list[str]:
    """Return what after the directory is not its plain end, or not what it says."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(opened.start_dir)
    tail = stream.read()
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\5\6") or _END.unpack(end)[-1]:
        return ["bytes, or a comment, follow the end of the directory"]
    _, *disks, here, entries, length, offset, _ = _END.unpack(end)
    rest = len(tail) - _END.size
    stated: list[tuple[int, ...]] = [(entries, length, offset)]
    if tail[rest - _LOCATOR.size : rest].startswith(b"PK\6\7"):
        rest -= _END64.size + _LOCATOR.size
        large = _read_end64(tail[max(rest, 0) : -_END.size], size)
        # The numbers of 32 bits are full where they do not suffice; from 2 GB on there are both, and both are right.
        full = zip(stated[0], large, (0xFFFF, _FULL, _FULL), strict=True)
        stated = [tuple(big if small == limit else small for small, big, limit in full), large]
    expected = (len(opened.infolist()), rest, opened.start_dir)
    agreed = all(each == expected for each in stated) and (disks, here) == ([0, 0], entries)
    return [] if agreed else ["its end states another directory than the one there"]


def _read_end64(raw: bytes, size: int) -> tuple[int, int, int]:
    """Return entries, size and offset of the directory as the zip64 end has them, zeros where it is not plain."""
    if len(raw) != _END64.size + _LOCATOR.size:
        return 0, 0, 0
    mark, own, _, _, *disks, here, entries, length, offset = _END64.unpack_from(raw)
    *locator, place, count = _LOCATOR.unpack_from(raw, _END64.size)
    plain = (mark, own, disks, here) == (b"PK\6\6", _END64.size - 12, [0, 0], entries)
    plain = plain and (locator, count) == ([b"PK\6\7", 0], 1)
    at = size - _END.size - _LOCATOR.size - _END64.size
    return (entries, length, offset) if plain and place == at else (0, 0, 0)
