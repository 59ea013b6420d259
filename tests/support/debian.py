"""A Debian base image: the tar that mmdebstrap makes from Debian's mirror, once, and the image that is pushed of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.images import push_image_sync

SUITE = "bookworm"
CACHE = Path(os.environ.get("SHOAL_DEMO_CACHE", "/var/cache/shoal-demo"))
"""The demo's, which makes the same file."""
NOT_INCLUDED = ("path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/doc/*")


def debian_tar() -> Path:
    """The tar of a minimal Debian; made when it is missing, which takes a minute."""
    tar = CACHE / f"debian-{SUITE}.tar"
    if not (tar.exists() and tar.stat().st_size):
        CACHE.mkdir(parents=True, exist_ok=True)
        made = tar.with_suffix(f".{os.getpid()}")
        try:
            options = [f"--dpkgopt={each}" for each in (*NOT_INCLUDED, "path-include=/usr/share/doc/*/copyright")]
            command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", *options, SUITE, made]
            subprocess.run(command, check=True, timeout=900)
            made.rename(tar)
        finally:
            made.unlink(missing_ok=True)
    return tar


def push_debian(address: str) -> str:
    """Push it to a registry; the reference."""
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]}
    pushed = push_image_sync(address, f"debian:{SUITE}-slim", layers=[debian_tar().read_bytes()], config=config)
    return pushed.reference
