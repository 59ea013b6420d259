"""Headers of tar members as bytes: ustar, with a pax header only for what ustar can't say. Deterministic."""

from __future__ import annotations

import struct

from shoald.host.tarmembers import BLOCK, BLOCKDEV, CHAR, DIRECTORY, HARDLINK, SYMLINK, Member

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_MAGIC = b"ustar\x0000"
_NS = 1_000_000_000

END = bytes(2 * BLOCK)
"""What ends an archive."""


def header(member: Member) -> bytes:
    """The header blocks of a member; `size` bytes of content (padded to blocks) follow those of a regular file.

    Times are written to the nanosecond, with a pax header when they are not whole seconds.
    """
    pax: dict[bytes, bytes] = {}
    name = member.name + b"/" if member.type == DIRECTORY and not member.name.endswith(b"/") else member.name
    seconds, fraction = divmod(member.mtime_ns, _NS)
    if fraction or not 0 <= seconds <= _MAX_SIZE:
        pax[b"mtime"] = _time(member.mtime_ns)
        seconds = min(max(seconds, 0), _MAX_SIZE)
    prefix, short = _split(name)
    if short is None or not name.isascii():
        pax[b"path"] = name
        prefix, short = b"", name[:100] if name.isascii() else _ascii(name)
    link = member.link
    if len(link) > 100 or not link.isascii():
        pax[b"linkpath"] = link
        link = _ascii(link)
    numbers = {b"uid": member.uid, b"gid": member.gid}
    for key, value in numbers.items():
        if value > _MAX_ID:
            pax[key] = b"%d" % value
            numbers[key] = 0
    size = member.size
    if size > _MAX_SIZE:
        pax[b"size"] = b"%d" % size
        size = 0
    for xattr, content in sorted((member.xattrs or {}).items()):
        pax[b"SCHILY.xattr." + xattr] = content
    block = _block(member, short, prefix, link, numbers[b"uid"], numbers[b"gid"], size, seconds)
    return _pax(pax, short) + block if pax else block


def _block(
    member: Member, name: bytes, prefix: bytes, link: bytes, uid: int, gid: int, size: int, seconds: int
) -> bytes:
    devices = member.type in (CHAR, BLOCKDEV)
    return _summed(
        _HEADER.pack(
            name,
            b"%07o" % member.mode,
            b"%07o" % uid,
            b"%07o" % gid,
            b"%011o" % size,
            b"%011o" % seconds,
            b"        ",
            member.type,
            link if member.type in (HARDLINK, SYMLINK) else b"",
            _MAGIC,
            b"",
            b"",
            b"%07o" % (member.major if devices else 0),
            b"%07o" % (member.minor if devices else 0),
            prefix,
        )
    )


def _summed(block: bytes) -> bytes:
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(records: dict[bytes, bytes], name: bytes) -> bytes:
    data = b"".join(_record(key, value) for key, value in sorted(records.items()))
    member = Member(b"", b"x", 0o644, 0, 0, len(data), len(data), 0)
    block = _block(member, b"PaxHeaders/" + name.rstrip(b"/")[-88:], b"", b"", 0, 0, len(data), 0)
    return block + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _time(ns: int) -> bytes:
    sign, ns = (b"-", -ns) if ns < 0 else (b"", ns)
    seconds, fraction = divmod(ns, _NS)
    text = b"%s%d" % (sign, seconds)
    return text + b"." + (b"%09d" % fraction).rstrip(b"0") if fraction else text


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """Prefix and name as ustar has them; None when it can't."""
    if len(name) <= 100:
        return b"", name
    at = name.find(b"/", len(name) - 101)
    if 0 < at <= 155 and at < len(name) - 1:
        return name[:at], name[at + 1 :]
    return b"", None


def _ascii(text: bytes) -> bytes:
    return bytes(byte if byte < 0x80 else ord("_") for byte in text[:100])
