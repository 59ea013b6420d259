"""Mounts: bind, overlay over idmapped layers, unmount. All calls block (an unmount may write back): use a thread.

Errors are those of `shoald.host.syscall.failure`, with the path and the text of the errno. No failure leaves a mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from shoal.errors import InvalidArgument
from shoald.host import syscall
from shoald.host.mountinfo import MountPoint, mount_points
from shoald.host.overlayfs import mount_layers
from shoald.host.syscall import failure, translated
from shoald.host.userns import IdMap

__all__ = [
    "LowerLayer",
    "MountFlags",
    "MountPoint",
    "bind",
    "make_private",
    "mount",
    "mount_points",
    "overlay",
    "unmount",
    "unmount_tree",
]
