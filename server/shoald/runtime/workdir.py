"""Working directories that would lead to open files of the runtime are refused before it runs (CVE-2024-21626)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import InvalidArgument
from shoald.runtime.rootfs import steps
from shoald.runtime.spec import leads_to_descriptors


def check_working_dir(rootfs: Path, config: Mapping[str, Any]) -> None:
    """Refuse `process.cwd` when it leads through /proc or to the descriptor links of /dev.

    Symlinks in the root file system and in bind mounts are followed. Raises InvalidArgument (INVALID_WORKDIR).
    """
    given = config["process"]["cwd"]
    mounts = {mount["destination"]: mount["source"] for mount in config.get("mounts", ()) if mount["type"] == "bind"}
    # These the kernel fills anew: links that the image keeps below them do not exist in the container.
    kernel = {mount["destination"] for mount in config.get("mounts", ())} - mounts.keys()
    mounts |= dict.fromkeys(kernel, "/nonexistent")
    if not given.startswith("/"):
        raise InvalidArgument(f"working directory {given!r} is not an absolute path", reason="INVALID_WORKDIR")
    # Every step counts, not the end alone: `..` from a descriptor of the host leads into the host.
    for place in steps(rootfs, given, mounts):
        if leads_to_descriptors(place):
            message = f"working directory {given!r} leads through {place} and is not allowed"
            raise InvalidArgument(message, reason="INVALID_WORKDIR")
