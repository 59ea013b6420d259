"""Program: look at, read or write files of a container, confined to it (see shoald.host.view).

    python -I -m shoald.host.containerfiles REQUEST

REQUEST is JSON: {"operation": "stat" | "out" | "in" | "export", "path", "follow", "keep_owner", "guard_types",
"view": fields of View}.

stat: writes the PathStat as a line of JSON. out: the same line, then a tar of what is at the path, the first member
named as the path's last component. export: a tar of the whole root. in: unpacks the tar (perhaps compressed) from
standard input into the directory `path`; `guard_types` refuses to replace a directory by something else and the other
way round. The last line of standard error is {} or {"error": reason, "message", "errno"}; the exit status tells which.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import posixpath
import stat
import sys
from typing import Any

from shoald.host.extract import ARCHIVE, Extractor, Rules, clean, shown
from shoald.host.readtree import TreeReader
from shoald.host.tarmembers import DIRECTORY, Member, members
from shoald.host.tarsource import ARCHIVE_FORMATS, Limits, Refused, TarSource, preload
from shoald.host.view import View, enter

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REASONS = {
    errno.EROFS: "READ_ONLY",
    errno.ENOENT: "PATH_NOT_FOUND",
    errno.ENOTDIR: "NOT_A_DIRECTORY",
    errno.ELOOP: "TOO_MANY_LINKS",
    errno.ENAMETOOLONG: "PATH_NOT_FOUND",
    errno.EACCES: "NOT_PERMITTED",
    errno.EPERM: "NOT_PERMITTED",
}


def main() -> int:
    """Run; the exit status."""
    request = json.loads(sys.argv[1])
    preload(ARCHIVE_FORMATS)
    # Loaded now: nothing can be, later.
    "x".encode("idna"), "\udc80".encode("utf-8", "surrogateescape"), "x".encode("ascii", "backslashreplace")
    result: dict[str, object] = {}
    try:
        enter(View(**request.pop("view")))
        _OPERATIONS[request["operation"]](request)
    except Refused as error:
        result = {"error": error.reason, "message": str(error)}
    except OSError as error:
        result = _failed(error)
    os.write(2, json.dumps(result).encode() + b"\n")
    # The thread may still wait for input that nobody will read.
    os._exit(1 if result else 0)


def _failed(error: OSError) -> dict[str, object]:
    name = error.filename if isinstance(error.filename, str | bytes) else b""
    where = ascii(os.fsencode(name)[:300].decode(errors="backslashreplace")) + ": " if name else ""
    reason = "DISK_FULL" if error.errno in _FULL else _REASONS.get(error.errno or 0, "SYSCALL_FAILED")
    return {"error": reason, "message": f"{where}{error.strerror}", "errno": error.errno}


# --- stat and out -----------------------------------------------------------------------------------------------------


def _stat(request: dict[str, Any]) -> None:
    _tell(_place(request["path"], follow=False))


def _out(request: dict[str, Any]) -> None:
    place = _place(request["path"], follow=request["follow"])
    _tell(place)
    TreeReader(1).write(os.fsencode(place["path"]), os.fsencode(place["name"]))


def _export(request: dict[str, Any]) -> None:
    TreeReader(1).write_children(b"/")


def _place(path: str, *, follow: bool) -> dict[str, Any]:
    """What is at a path, links on the way followed; the last component only with `follow`, or where the path ends
    with `/` or `/.`, which also says that it is a directory."""
    raw = os.fsencode(path)
    dotted = raw.endswith(b"/.") or raw in (b".", b"")
    directory = raw.endswith(b"/") or dotted
    absolute = posixpath.normpath(b"/" + raw.lstrip(b"/"))
    name = b"." if dotted or absolute == b"/" else posixpath.basename(absolute)
    if directory:
        absolute = posixpath.join(absolute, b".")
    found = os.stat(absolute, follow_symlinks=follow)
    target = os.path.realpath(absolute) if stat.S_ISLNK(found.st_mode) else b""
    return {
        "path": os.fsdecode(os.path.realpath(absolute) if follow or directory else absolute),
        "name": os.fsdecode(name),
        "size": found.st_size,
        "mode": found.st_mode,
        "mtime_ns": found.st_mtime_ns,
        "link": os.fsdecode(target),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def _tell(place: dict[str, Any]) -> None:
    data = json.dumps({key: value for key, value in place.items() if key != "path"}).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


# --- in ---------------------------------------------------------------------------------------------------------------


class _Guarded(Extractor):
    """Never makes a directory into something else, nor the other way round."""

    def _directory(self, member: Member, path: bytes) -> None:
        if path and _kind(path) not in (0, stat.S_IFDIR):
            raise Refused(f"{shown(path)} is no directory and can't become one", "TYPE_CONFLICT")
        super()._directory(member, path)

    def _clear(self, path: bytes) -> None:
        if _kind(path) == stat.S_IFDIR:
            raise Refused(f"{shown(path)} is a directory and can't become a file", "TYPE_CONFLICT")
        super()._clear(path)


def _kind(path: bytes) -> int:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return 0


def _in(request: dict[str, Any]) -> None:
    directory = os.path.realpath(b"/" + os.fsencode(request["path"]).lstrip(b"/"))
    if not stat.S_ISDIR(os.stat(directory).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    rules: Rules = dataclasses.replace(ARCHIVE, owner=None if request["keep_owner"] else (0, 0))
    limits = Limits()
    source = TarSource(0, limits, ARCHIVE_FORMATS)
    extractor = (_Guarded if request["guard_types"] else Extractor)(source, rules, limits, clean(directory))
    for member in members(source):
        if member.type == DIRECTORY and not clean(member.name) and directory == b"/":
            source.skip(member.stored)  # the root keeps its owner and mode, as Docker has it
            continue
        extractor.add(member)
    source.finish()
    extractor.finish()


_OPERATIONS = {"stat": _stat, "out": _out, "in": _in, "export": _export}

if __name__ == "__main__":
    sys.exit(main())
