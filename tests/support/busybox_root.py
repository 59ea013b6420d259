"""A root file system of one program: busybox and its names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_NAMES = [
    "sh",
    "cat",
    "echo",
    "sleep",
    "true",
    "false",
    "ls",
    "id",
    "mount",
    "stty",
    "kill",
    "dd",
    "head",
    "tail",
    "seq",
    "yes",
    "env",
    "pwd",
    "tr",
    "wc",
    "trap",
    "test",
    "touch",
    "mkdir",
    "ln",
    "ps",
    "grep",
    "readlink",
    "sed",
    "hostname",
    "rm",
    "cp",
]


def make_root(target: Path, *, owner: int = 0) -> Path:
    """Fill `target`, owned by `owner` (the first host id of a user namespace)."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "home"):
        (target / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", target / "bin/busybox")
    for name in _NAMES:
        os.symlink("busybox", target / "bin" / name)
    (target / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
    (target / "etc/group").write_text("root:x:0:\napp:x:1001:\nextra:x:2000:app\n")
    (target / "tmp").chmod(0o1777)
    if owner:
        for path in (target, *target.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)
    return target
