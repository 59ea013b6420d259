"""USER strings to numbers, by the passwd and group files of the image. The host's user database plays no part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from shoal.errors import InvalidArgument
from shoald.runtime.rootfs import read_file
from shoald.runtime.spec import ResolvedUser

MAX_ID = 2**31 - 1
"""Highest id that Docker and runc accept; above it, 32-bit programs would see a negative one."""

_MAX_FILE = 8 << 20
_NUMBER = re.compile(r"[0-9]+")


def resolve_user(user: str, rootfs: Path, groups: Sequence[str] = ()) -> ResolvedUser:
    """Resolve `""`, `user`, `uid`, `user:group`, `uid:gid` inside a mounted root file system.

    With no group given the groups are the user's own from passwd and group, as Docker has it; a group given by hand
    stands alone. `groups` (names or numbers) are added to either. Raises InvalidArgument (INVALID_USER,
    INVALID_GROUP) for ids out of range, malformed strings and unknown names.
    """
    passwd = read_file(rootfs, "etc/passwd", limit=_MAX_FILE) or b""
    group = read_file(rootfs, "etc/group", limit=_MAX_FILE) or b""
    return lookup(user, passwd, group, groups)


def lookup(user: str, passwd: bytes, group: bytes, groups: Sequence[str] = ()) -> ResolvedUser:
    """The pure half of `resolve_user`: the contents of /etc/passwd and /etc/group are given."""
    user_part, colon, group_part = user.partition(":")
    if (colon and not group_part) or (colon and not user_part) or any(c.isspace() or c == "\0" for c in user):
        raise _invalid(user, "it is not of the form user, uid, user:group or uid:gid")
    name, uid, gid, home = _find_user(user, user_part or "0", passwd)
    more = [_more(each, group) for each in groups]
    if group_part:
        return ResolvedUser(uid, _find_group(user, group_part, group), tuple(dict.fromkeys(more)), home)
    return ResolvedUser(uid, gid, tuple(dict.fromkeys((*_additional(name, gid, group), *more))), home)


def _more(wanted: str, group: bytes) -> int:
    try:
        return _find_group(wanted, wanted, group)
    except InvalidArgument:
        raise InvalidArgument(
            f"bad group {wanted!r}: it is neither a group of the image nor a number up to {MAX_ID}",
            reason="INVALID_GROUP",
        ) from None


def _find_user(user: str, wanted: str, passwd: bytes) -> tuple[str | None, int, int, str]:
    """(name, uid, gid, home). A name is looked for before a number is read, as Docker does."""
    numeric = _NUMBER.fullmatch(wanted) is not None
    number = int(wanted) if numeric and len(wanted) <= 10 else None
    by_number: tuple[str | None, int, int, str] | None = None
    for fields in _entries(passwd, 7):
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is None or gid is None:
            continue
        found = (fields[0], uid, gid, fields[5] or "/")
        if fields[0] == wanted:
            return found
        if number is not None and uid == number and by_number is None:
            by_number = found
    if by_number is not None:
        return by_number
    if not numeric:
        raise _invalid(user, f"the image has no user {wanted!r}")
    if number is None or number > MAX_ID:
        raise _invalid(user, f"user ids go up to {MAX_ID}")
    return None, number, 0, "/"


def _find_group(user: str, wanted: str, group: bytes) -> int:
    for fields in _entries(group, 4):
        gid = _id(fields[2])
        if gid is not None and fields[0] == wanted:
            return gid
    if _NUMBER.fullmatch(wanted) is None:
        raise _invalid(user, f"the image has no group {wanted!r}")
    if len(wanted) > 10 or int(wanted) > MAX_ID:
        raise _invalid(user, f"group ids go up to {MAX_ID}")
    return int(wanted)


def _additional(name: str | None, gid: int, group: bytes) -> tuple[int, ...]:
    if name is None:
        return (gid,)
    found = [gid]
    for fields in _entries(group, 4):
        member_of = _id(fields[2])
        if member_of is not None and member_of not in found and name in fields[3].split(","):
            found.append(member_of)
    return tuple(found)


def _entries(data: bytes, count: int) -> Iterator[list[str]]:
    for line in data.decode("utf-8", errors="surrogateescape").split("\n"):
        fields = line.strip().split(":")
        if fields[0] and not fields[0].startswith("#") and len(fields) >= 3:
            yield fields + [""] * (count - len(fields))


def _id(text: str) -> int | None:
    """An id of passwd or group; None for what is no number in range (such a line is no one's)."""
    text = text.strip()
    if _NUMBER.fullmatch(text) is None or len(text) > 10 or int(text) > MAX_ID:
        return None
    return int(text)


def _invalid(user: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"bad user {user!r}: {why}", reason="INVALID_USER", metadata={"user": user})
