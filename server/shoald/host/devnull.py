"""The host's /dev/null stays root's: it is the one inode behind every container's /dev/null and its masked files."""

from __future__ import annotations

import os
import stat

NULL = "/dev/null"
_DEVICE = (1, 3)
_MODE = 0o666


def restore_null(path: str = NULL) -> bool:
    """Give /dev/null back to root, mode 0666; True when it had been changed.

    crun up to 1.23 hands the standard streams of a new container to its user, /dev/null included (crun issue 1845), and
    that user could then change its mode for the whole host. Call it between `create` and `start`, before which nothing
    of the container runs. What is no null device is left alone. Raises OSError.
    """
    found = os.lstat(path)
    if not stat.S_ISCHR(found.st_mode) or (os.major(found.st_rdev), os.minor(found.st_rdev)) != _DEVICE:
        return False
    if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, _MODE):
        return False
    os.chown(path, 0, 0, follow_symlinks=False)
    os.chmod(path, _MODE)
    return True
