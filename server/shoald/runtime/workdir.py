"""Working directories that would lead to open files of the runtime are refused before it runs (CVE-2024-21626)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import InvalidArgument
from shoald.runtime.rootfs import canonical_path
from shoald.runtime.spec import leads_to_descriptors, working_dir


def check_working_dir(rootfs: Path, config: Mapping[str, Any]) -> None:
    """Refuse `process.cwd` when it leads below /proc or to the descriptor links of /dev.

    Symlinks in the root file system and in bind mounts are followed. Raises InvalidArgument (INVALID_WORKDIR).
    """
    given = config["process"]["cwd"]
    mounts = {mount["destination"]: mount["source"] for mount in config.get("mounts", ()) if mount["type"] == "bind"}
    # These the kernel fills anew: links that the image keeps below them do not exist in the container.
    kernel = {mount["destination"] for mount in config.get("mounts", ())} - mounts.keys()
    mounts |= dict.fromkeys(kernel, "/nonexistent")
    real = canonical_path(rootfs, working_dir(given), mounts)
    if leads_to_descriptors(real):
        message = f"working directory {given!r} leads to {real} and is not allowed"
        raise InvalidArgument(message, reason="INVALID_WORKDIR")
