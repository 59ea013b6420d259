"""What a tree of a client's files may be, and its digest; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from shoal.digest import Digest
from shoal.errors import InvalidArgument, ShoalError
from shoald.model.file import TreeEntry

MAX_ENTRIES = 10_000
_MAX_PATH, _MAX_NAME = 4000, 255  # bytes
_MAX_DEPTH = 256
_MAX_MODE = 0o777
_LATEST_NS = 2**62
_ENCODER = msgspec.json.Encoder()


def checked_tree(entries: Sequence[TreeEntry]) -> str:
    """The digest of the tree. Raises InvalidArgument (INVALID_TREE).

    Directories come before what is in them; so no name leads through a symbolic link, and nothing out of the tree.
    """
    if not entries:
        raise _invalid("it has no entries")
    if len(entries) > MAX_ENTRIES:
        raise _invalid(f"it has {len(entries)} entries, more than {MAX_ENTRIES}")
    directories: set[str] = set()
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        if entry.path in seen:
            raise _invalid(f"{entry.path!r} is there twice")
        seen.add(entry.path)
        if entry.path:
            parent = entry.path.rpartition("/")[0]
            if parent and parent not in directories:
                raise _invalid(f"the directory of {entry.path!r} is missing, or comes after it")
        elif entry.link or (entry.blob and len(entries) > 1):
            raise _invalid("the root is a file among others, or a link")
        if entry.directory:
            directories.add(entry.path)
    ordered = sorted(entries, key=lambda entry: entry.path)
    return f"sha256:{hashlib.sha256(_ENCODER.encode(ordered)).hexdigest()}"


def _check_entry(entry: TreeEntry) -> None:
    shown = repr(entry.path[:200])
    if bool(entry.blob) + bool(entry.link) + entry.directory != 1:
        raise _invalid(f"{shown} must be one of a file, a directory and a link")
    if entry.path:
        parts = entry.path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in entry.path:
            raise _invalid(f"{shown} is no relative path without . and ..")
        if len(parts) > _MAX_DEPTH or len(_encoded(entry.path)) > _MAX_PATH:
            raise _invalid(f"{shown} is too long or too deep")
        if any(len(_encoded(part)) > _MAX_NAME for part in parts):
            raise _invalid(f"{shown} has a name of more than {_MAX_NAME} bytes")
    if "\0" in entry.link or len(_encoded(entry.link)) > _MAX_PATH:
        raise _invalid(f"the target of {shown} is too long, or has a NUL")
    if not 0 <= entry.mode <= _MAX_MODE or abs(entry.modified_ns) > _LATEST_NS:
        raise _invalid(f"{shown} has a mode beyond 0777, or no time")
    if entry.blob:
        try:
            Digest.parse(entry.blob)
        except ShoalError as error:
            raise _invalid(f"{shown}: {error}") from error


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _invalid(f"{text[:200]!a} is not UTF-8") from None


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(f"the tree of files can't be: {why}", reason="INVALID_TREE")
