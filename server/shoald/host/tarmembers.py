"""Members of a tar stream: ustar, pax, GNU and v7, byte for byte as they are written.

Where the format leaves freedom this follows Go's archive/tar, as Docker, containerd and umoci do, so that an archive
means the same everywhere: members without content have none whatever their size says, global pax headers do nothing.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from shoald.host.tarsource import Refused, TarSource

BLOCK = 512
_SPECIAL_BYTES = 1 << 20
_SPARSE_ENTRIES = 1 << 20
_MAX_OFFSET = (1 << 63) - 1
_MAX_ID = 0xFFFFFFFE

FILE, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR = (b"0", b"\0", b"7", b"S")
_EMPTY = (HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO)

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")


@dataclass(slots=True)
class Member:
    """One member. `name` and `link` are raw; `size` is that of the file, `stored` that of its bytes in the archive."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime_ns: int
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] | None = None
    sparse: list[tuple[int, int]] | None = None
    """Offset and length of each piece of data, in order; None: the file has no holes."""


@dataclass(slots=True)
class _Extra:
    """What extended headers say of the next member."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[bytes, bytes]] = field(default_factory=list)
    """The records of sparse format 0.0, which come several times."""
    name: bytes | None = None
    link: bytes | None = None


def members(source: TarSource) -> Iterator[Member]:
    """Read the members; the caller takes exactly `stored` bytes of each before it goes on (padding is passed here).

    Raises Refused (BAD_ARCHIVE, TRUNCATED).
    """
    extra = _Extra()
    while block := source.take(BLOCK):
        if len(block) < BLOCK:
            raise Refused("archive ends in the middle of a header", "TRUNCATED")
        if not block[0] and not block.strip(b"\0"):
            return
        kind = block[156:157]
        if kind in (b"x", b"g", b"L", b"K"):
            _extended(kind, _special(source, block), extra)
            continue
        member = _member(source, block, extra)
        extra = _Extra()
        padding = -member.stored % BLOCK
        yield member
        if padding:
            source.skip(padding)


def _special(source: TarSource, block: bytes) -> bytes:
    """The content of an extended header."""
    _check_sum(block)
    size = _number(block[124:136])
    if size > _SPECIAL_BYTES:
        raise Refused(f"extended header of {size} bytes")
    data = source.take(size)
    if len(data) != size:
        raise Refused("archive ends in the middle of a header", "TRUNCATED")
    source.skip(-size % BLOCK)
    return data


def _extended(kind: bytes, data: bytes, extra: _Extra) -> None:
    if kind == b"x":
        _pax_records(data, extra)
    elif kind == b"L":
        extra.name = data.split(b"\0", 1)[0]
    elif kind == b"K":
        extra.link = data.split(b"\0", 1)[0]


def _pax_records(data: bytes, extra: _Extra) -> None:
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space]
        if space < 0 or not length.isdigit():
            raise Refused("invalid pax header")
        end = at + int(length)
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise Refused("invalid pax header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or (b"\0" in value and b"xattr." not in key):
            raise Refused("invalid pax header")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            extra.sparse.append((key, value))
        elif value:
            extra.pax[key] = value
        else:
            extra.pax.pop(key, None)
        at = end


def _member(source: TarSource, block: bytes, extra: _Extra) -> Member:
    _check_sum(block)
    name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix, _ = _HEADER.unpack(block)
    name, link = name.split(b"\0", 1)[0], link.split(b"\0", 1)[0]
    gnu = magic == b"ustar  \0"
    if magic[:6] == b"ustar\0" and (head := prefix.split(b"\0", 1)[0]):
        name = head + b"/" + name
    devices = kind in (CHAR, BLOCKDEV)
    member = Member(
        name=extra.name if extra.name is not None else name,
        type=kind,
        mode=_number(mode) & 0o7777,
        uid=_number(uid),
        gid=_number(gid),
        size=_number(size),
        stored=0,
        mtime_ns=_number(mtime) * 1_000_000_000,
        link=extra.link if extra.link is not None else link,
        major=_number(major) if devices else 0,
        minor=_number(minor) if devices else 0,
    )
    if extra.pax:
        _apply(extra.pax, member)
    _check(member)
    if kind == b"\0" and member.name.endswith(b"/"):
        # Version 7 had no type for directories.
        member.type = kind = DIRECTORY
    if kind in _EMPTY:
        member.size = 0
    elif kind not in _REGULAR:
        raise Refused(f"member {_shown(member.name)} has the unknown type {kind!r}")
    else:
        member.type, member.stored = FILE, member.size
        _find_holes(source, member, block if kind == b"S" and gnu else None, extra)
    return member


def _check(member: Member) -> None:
    if not member.name:
        raise Refused("member without a name")
    if b"\0" in member.name or b"\0" in member.link:
        raise Refused("member with a zero byte in its name")
    if not 0 <= member.size <= _MAX_OFFSET:
        raise Refused(f"member {_shown(member.name)} has the size {member.size}")
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise Refused(f"member {_shown(member.name)} has the owner {member.uid}:{member.gid}")


def _check_sum(block: bytes) -> None:
    total = sum(block) - sum(block[148:156]) + 256
    wanted = _number(block[148:156])
    if total != wanted and sum(struct.unpack("148b8x356b", block)) + 256 != wanted:
        raise Refused("this is no tar archive, or a damaged one (header checksum)")


def _number(text: bytes) -> int:
    """Octal text, or GNU's base 256."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big", signed=False) - (0x80 << 8 * (len(text) - 1))
        return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value
    digits = text.strip(b" \0")
    try:
        return int(digits.split(b"\0", 1)[0], 8) if digits else 0
    except ValueError:
        raise Refused("invalid number in a header") from None


def _apply(pax: dict[bytes, bytes], member: Member) -> None:
    for key, value in pax.items():
        match key:
            case b"path" | b"GNU.sparse.name":
                if key == b"GNU.sparse.name" or b"GNU.sparse.name" not in pax:
                    member.name = value
            case b"linkpath":
                member.link = value
            case b"size":
                member.size = _decimal(value)
            case b"uid":
                member.uid = _decimal(value)
            case b"gid":
                member.gid = _decimal(value)
            case b"mtime":
                member.mtime_ns = _time_ns(value)
            case _ if key.startswith(b"SCHILY.xattr."):
                _xattrs(member)[key[13:]] = value
            case _ if key.startswith(b"LIBARCHIVE.xattr."):
                name, decoded = _unquoted(key[17:]), _base64(value)
                _xattrs(member).setdefault(name, decoded)


def _xattrs(member: Member) -> dict[bytes, bytes]:
    if member.xattrs is None:
        member.xattrs = {}
    return member.xattrs


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise Refused(f"invalid number in a pax header: {_shown(text)}")
    return int(text)


def _time_ns(text: bytes) -> int:
    negative = text.startswith(b"-")
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if (
        len(seconds) > 20
        or not (seconds or fraction)
        or not (seconds or b"0").isdigit()
        or not (fraction or b"0").isdigit()
    ):
        raise Refused(f"invalid time in a pax header: {_shown(text)}")
    value = int(seconds or b"0") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if negative else value


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise Refused("invalid extended attribute") from None


def _unquoted(text: bytes) -> bytes:
    head, *parts = text.split(b"%")
    try:
        return head + b"".join(bytes.fromhex(part[:2].decode("ascii")) + part[2:] for part in parts)
    except ValueError:
        raise Refused("invalid name of an extended attribute") from None


def _find_holes(source: TarSource, member: Member, gnu: bytes | None, extra: _Extra) -> None:
    """Set `sparse`, and `size` to that of the whole file, when this is a sparse file in one of the four formats."""
    pax = extra.pax
    if gnu is not None:
        pieces = _old_gnu_map(source, gnu)
        member.size = _number(gnu[483:495])
    elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
        pieces = _map_in_data(source, member)
        member.size = _decimal(pax.get(b"GNU.sparse.realsize", b""))
    elif b"GNU.sparse.map" in pax or extra.sparse:
        numbers = pax[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in pax else [v for _, v in extra.sparse]
        pieces = _pairs([_decimal(number) for number in numbers])
        member.size = _decimal(pax.get(b"GNU.sparse.size", b""))
    else:
        return
    at = 0
    for offset, length in pieces:
        if offset < at or offset + length > member.size:
            raise Refused(f"invalid sparse map of {_shown(member.name)}")
        at = offset + length
    if member.size > _MAX_OFFSET or sum(length for _, length in pieces) != member.stored:
        raise Refused(f"invalid sparse map of {_shown(member.name)}")
    member.sparse = pieces


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2 or len(numbers) > 2 * _SPARSE_ENTRIES:
        raise Refused("invalid sparse map")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _old_gnu_map(source: TarSource, block: bytes) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    fields, more = block[386:482], block[482]
    while True:
        for at in range(0, len(fields) - 23, 24):
            if not fields[at]:
                break
            pieces.append((_number(fields[at : at + 12]), _number(fields[at + 12 : at + 24])))
        if not more:
            return pieces
        if len(pieces) > _SPARSE_ENTRIES:
            raise Refused("invalid sparse map")
        block = source.take(BLOCK)
        if len(block) < BLOCK:
            raise Refused("archive ends in the middle of a header", "TRUNCATED")
        fields, more = block[:504], block[504]


def _map_in_data(source: TarSource, member: Member) -> list[tuple[int, int]]:
    """Format 1.0: decimal lines at the beginning of the data, padded to a block."""
    text, lines, wanted = bytearray(), 0, 1
    while lines < wanted:
        block = source.take(BLOCK) if member.stored >= BLOCK else b""
        member.stored -= BLOCK
        text += block
        lines += block.count(b"\n")
        if wanted == 1 and lines:
            wanted = 1 + 2 * _decimal(bytes(text.split(b"\n", 1)[0]))
        if len(block) < BLOCK or wanted > 2 * _SPARSE_ENTRIES or len(text) > 40 * (wanted + BLOCK):
            raise Refused(f"invalid sparse map of {_shown(member.name)}")
    return _pairs([_decimal(line) for line in bytes(text).split(b"\n")[1:wanted]])


def _shown(text: bytes) -> str:
    return ascii(text[:200].decode(errors="backslashreplace"))
