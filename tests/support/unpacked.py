"""The unpacking program for tests, and what a tree looks like."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def unpack(target: Path, data: bytes, mode: str = "layer", *arguments: str) -> dict[str, Any]:
    """Run the program over `data`; its result."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "shoald.host.unpack", "--mode", mode, *arguments],
        input=data,
        capture_output=True,
        cwd=target,
        timeout=120,
    )
    assert done.stdout, done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode != 0) == ("error" in result)
    return result


def pack(
    layer: Path, compression: str = "none", id_base: int = 0, without: Sequence[str] = ()
) -> tuple[bytes, dict[str, Any]]:
    """Run the packing program over a layer; the archive and the result."""
    argv = [sys.executable, "-I", "-m", "shoald.host.pack", "--compression", compression, "--id-base", str(id_base)]
    argv += ["--without", json.dumps(without)]
    done = subprocess.run(argv, capture_output=True, cwd=layer, timeout=120)
    assert done.stderr, done.returncode
    return done.stdout, json.loads(done.stderr)


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below `top`: type, mode, owner, device, time, content or target, xattrs; hard links by first name."""
    found: dict[str, tuple[object, ...]] = {}
    links: dict[int, str] = {}
    pending = [os.fsencode(top)]
    while pending:
        path = pending.pop()
        info = os.lstat(path)
        name = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
        content: object = None
        if stat.S_ISDIR(info.st_mode):
            pending += [os.path.join(path, each) for each in sorted(os.listdir(path), reverse=True)]
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        names = os.listxattr(path, follow_symlinks=False)
        first = links.setdefault(info.st_ino, name)
        found[name] = (
            oct(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_rdev,
            info.st_mtime_ns,
            content,
            {each: os.getxattr(path, each, follow_symlinks=False) for each in names},
            first,
        )
    return found
