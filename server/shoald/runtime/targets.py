"""Mounts that links of an image would move over the kernel's file systems are refused before the runtime makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import InvalidArgument
from shoald.runtime.rootfs import steps

_KERNEL = ("proc", "sys", "dev")


def check_mount_targets(rootfs: Path, config: Mapping[str, Any]) -> None:
    """Refuse mounts whose target is really somewhere in /proc, /sys or /dev, and images where these three are links.

    OCI runtimes follow links inside of the root file system: /etc/resolv.conf could stand for a file of /proc/sys, or
    /dev take the place of /proc, and what is masked or read-only there would no longer be what the container sees
    (the class of CVE-2025-31133 and CVE-2025-52881). Raises InvalidArgument (MOUNT_REDIRECTED).
    """
    earlier: dict[str, str] = {}
    for mount in config.get("mounts", ()):
        target = mount["destination"]
        place = next(iter([*steps(rootfs, target, earlier)][-1:]), "/")
        moved = place != target and (target[1:] in _KERNEL or place.split("/")[1] in _KERNEL)
        if moved:
            message = f"{target} leads to {place} by a symbolic link, and nothing can be mounted there"
            raise InvalidArgument(message, reason="MOUNT_REDIRECTED", metadata={"path": target})
        # What the kernel fills anew has no links of the image's below it.
        earlier[target] = mount["source"] if mount["type"] == "bind" else "/nonexistent"
