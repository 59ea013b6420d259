"""The manifest of a build's context: what files there are, without their contents; its digest names the whole context.

The format is that of mtree(5) as `mtree -C` writes it (`./path keyword=value ...`, one entry a line, names escaped in
octal as vis(3) does), with the keywords below and no others. Directories come before what is in them; the root has no
entry.

- `type`: dir, file, link or fifo; `mode`: permission bits, octal; `time`: seconds and nanoseconds, "1700000000.0";
- of files `size` and `sha256digest` (lower-case hex), and `inode` for one that has several names in the context:
  entries with the same number are one file;
- of links `link`, the target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from shoal.errors import InvalidArgument

HEADER = b"#mtree\n"
MAX_BYTES = 128 << 20
"""A larger manifest is refused: half a million files."""
MAX_ENTRIES = 1_000_000
_MAX_PATH, _MAX_NAME, _MAX_DEPTH = 4000, 255, 256
_PLAIN = re.compile(r"[!\"$-\[\]-~]+").fullmatch
_ESCAPE = re.compile(rb"\\([0-3][0-7][0-7])")
_HEX = re.compile(r"[0-9a-f]{64}").fullmatch
LATEST_S = 2**33
"""A later time can't be told, nor an earlier one than that before 1970."""
_NUMBERS = {
    "mode": re.compile(r"[0-7]{4}").fullmatch,
    "time": re.compile(r"-?[0-9]{1,10}\.0").fullmatch,
    "size": re.compile(r"[0-9]{1,19}").fullmatch,
    "inode": re.compile(r"[1-9][0-9]{0,9}").fullmatch,
}
_WANTED = {
    "dir": {"mode", "time"},
    "fifo": {"mode", "time"},
    "link": {"mode", "time", "link"},
    "file": {"mode", "time", "size", "sha256digest"},
}
_KINDS = {"dir": "d", "fifo": "p", "link": "l", "file": "f"}


class Entry(NamedTuple):
    """A file, directory, symbolic link or FIFO. `time` in seconds; `inode` is 0 for a file that has one name only."""

    path: str
    kind: str
    """"f", "d", "l" or "p"."""
    mode: int
    time: int
    size: int = 0
    digest: str = ""
    """SHA-256 of a file's content, hex."""
    link: str = ""
    inode: int = 0


def line(entry: Entry) -> str:
    """The entry's line, with its newline."""
    path = entry.path if _PLAIN(entry.path) else _escaped(entry.path)
    if entry.kind == "f":
        several = f" inode={entry.inode}" if entry.inode else ""
        return (
            f"./{path} type=file mode={entry.mode:04o} time={entry.time}.0 size={entry.size}"
            f" sha256digest={entry.digest}{several}\n"
        )
    if entry.kind in "dp":
        kind = "dir" if entry.kind == "d" else "fifo"
        return f"./{path} type={kind} mode={entry.mode:04o} time={entry.time}.0\n"
    link = entry.link if _PLAIN(entry.link) else _escaped(entry.link)
    return f"./{path} type=link mode={entry.mode:04o} time={entry.time}.0 link={link}\n"


def encoded(entries: Iterator[Entry]) -> bytes:
    """The manifest."""
    return HEADER + "".join(map(line, entries)).encode("ascii")


def parsed(data: bytes) -> list[Entry]:
    """The entries of a manifest, all checked. Raises InvalidArgument (INVALID_MANIFEST).

    A path is relative, without `.` and `..`, and its directory comes before it: so none leads through a symbolic link,
    or out of the context.
    """
    if not data.startswith(HEADER):
        raise _invalid("it does not begin with #mtree")
    try:
        lines = data[len(HEADER) :].decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise _invalid("it is not ASCII") from None
    if lines.pop():
        raise _invalid("it does not end with a newline")
    if len(lines) > MAX_ENTRIES:
        raise _invalid(f"it has {len(lines)} entries, more than {MAX_ENTRIES}")
    directories = {""}
    seen: set[str] = set()
    several: dict[int, Entry] = {}
    entries = []
    for text in lines:
        entry = _entry(text)
        if entry.path in seen:
            raise _invalid(f"{entry.path[:120]!a} is there twice")
        if entry.path.rpartition("/")[0] not in directories:
            raise _invalid(f"the directory of {entry.path[:120]!a} is missing, or comes after it")
        seen.add(entry.path)
        if entry.inode and several.setdefault(entry.inode, entry)._replace(path=entry.path) != entry:
            raise _invalid(f"{entry.path[:120]!a} is one file with another one that is different")
        if entry.kind == "d":
            directories.add(entry.path)
        entries.append(entry)
    return entries


def _entry(text: str) -> Entry:
    name, *words = text.split(" ")
    fields = dict(word.split("=", 1) for word in words if "=" in word)
    if len(fields) != len(words) or not name.startswith("./"):
        raise _invalid(f"{text[:120]!a} is no entry")
    kind = fields.pop("type", "")
    if fields.keys() - ({"inode"} if kind == "file" else set()) != _WANTED.get(kind):
        raise _invalid(f"{text[:120]!a} has the wrong keywords for its type")
    for keyword, value in fields.items():
        if keyword in _NUMBERS and not _NUMBERS[keyword](value):
            raise _invalid(f"{text[:120]!a}: {keyword} is no number that can be")
    path, link, digest = _unescaped(name[2:]), _unescaped(fields.get("link", "")), fields.get("sha256digest", "")
    _check_path(path)
    time = int(fields["time"].removesuffix(".0"))
    mode, size, inode = int(fields["mode"], 8), int(fields.get("size", "0")), int(fields.get("inode", "0"))
    if abs(time) > LATEST_S or size >= 2**62 or inode >= 2**31:
        raise _invalid(f"{text[:120]!a} has a number that can't be")
    if kind == "file" and not _HEX(digest):
        raise _invalid(f"{text[:120]!a} has no SHA-256 digest")
    if kind == "link" and (not link or "\0" in link or len(_bytes(link)) > _MAX_PATH):
        raise _invalid(f"the target of {path[:120]!a} can't be")
    return Entry(path, _KINDS[kind], mode, time, size, digest, link, inode)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise _invalid(f"{path[:120]!a} is no relative path without . and ..")
    if len(parts) > _MAX_DEPTH or len(_bytes(path)) > _MAX_PATH:
        raise _invalid(f"{path[:120]!a} is too long or too deep")
    if any(len(_bytes(part)) > _MAX_NAME for part in parts):
        raise _invalid(f"{path[:120]!a} has a name that is too long")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _escaped(text: str) -> str:
    return "".join(chr(c) if _PLAIN(chr(c)) else f"\\{c:03o}" for c in _bytes(text))


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), text.encode("ascii"))
    return plain.decode("utf-8", "surrogateescape")


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(f"the manifest of the context can't be: {why}", reason="INVALID_MANIFEST")
