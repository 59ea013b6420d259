"""One build context for all golden Dockerfiles."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path


def write_context(at: Path) -> None:
    """Files of many kinds: modes, links, archives, odd names, things that .dockerignore excludes."""
    for name, text in {
        "a.txt": "A\n",
        "b.txt": "B\n",
        "dir/x": "x",
        "dir/sub/y": "y",
        "exe.sh": "#!/bin/sh\necho hi\n",
        "file[1].txt": "br",
        "sp ace.txt": "sp",
        ".dockerignore": "*.md\n!keep.md\nig/\n",
        "r.md": "r",
        "keep.md": "k",
        "ig/z": "z",
    }.items():
        path = at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        path.parent.chmod(0o755)
    (at / "exe.sh").chmod(0o755)
    (at / "b.txt").chmod(0o600)
    (at / "dir").chmod(0o750)
    (at / "empty").mkdir(mode=0o755)
    os.symlink("a.txt", at / "link")
    os.symlink("dir", at / "dlink")
    _archive(at / "arc.tar.gz", "w:gz", "in/arc")
    _archive(at / "arc.tar.xz", "w:xz", "xz")
    _archive(at / "arc.tar.bz2", "w:bz2", "bz")
    _archive(at / "arc.tar", "w:", "plain")


def _archive(path: Path, mode: str, name: str) -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo(name)
        member.size, member.uid, member.gid, member.mode = 3, 5, 6, 0o640
        tar.addfile(member, io.BytesIO(b"abc"))
    path.chmod(0o644)
