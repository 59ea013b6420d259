"""Program: put a detached mount in the place of another one in a running container, in one step.

    python -I -m shoald.host.remount PID START-TIME TREE-FD PROC-FD TARGET DEVICE INODE NEW-INODE

TREE-FD is a detached mount (open_tree), PROC-FD the host's /proc; TARGET is a path in the container, where the root of
the mount to replace has DEVICE and INODE: anything else there is left alone, and with NEW-INODE it is done already. The
new mount goes beneath the old one, which then goes (Linux 6.5); on older kernels it is laid on top. Writes
{"how": ...}, or {"error", "message"} and exits with 1.
"""

from __future__ import annotations

import errno
import json
import os
import sys

from shoald.host import syscall

_CLONE_NEWNS = 0x00020000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH, _MOVE_MOUNT_BENEATH = 0x04, 0x40, 0x200
_MNT_DETACH = 2


def main() -> int:
    """Run; the exit status."""
    pid, start_time, tree, proc = map(int, sys.argv[1:5])
    target = sys.argv[5]
    expected = (int(sys.argv[6]), int(sys.argv[7]), int(sys.argv[8]))
    namespace = os.open(f"{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    if _start_time(proc, pid) != start_time:
        return _tell({"error": "NOT_RUNNING", "message": "the container's process has ended"})
    json.dumps({})
    # From here on every path is the container's: nothing more may be loaded.
    sys.path.clear()
    sys.path_hooks.clear()
    sys.meta_path.clear()
    try:
        syscall.setns(namespace, _CLONE_NEWNS)
        return _tell(_replace(tree, proc, target, expected))
    except OSError as error:
        return _tell({"error": "SYSCALL_FAILED", "message": str(error), "errno": error.errno or 0})


def _replace(tree: int, proc: int, target: str, expected: tuple[int, int, int]) -> dict[str, object]:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_MAGICLINKS
    old = syscall.openat2(root, target.lstrip("/"), os.O_PATH, resolve=resolve)
    found = os.fstat(old)
    device, inode, new_inode = expected
    if (found.st_dev, found.st_ino) == (device, new_inode):
        return {"how": "already"}
    if (found.st_dev, found.st_ino) != (device, inode):
        return {"error": "NOT_MOUNTED", "message": f"something else is at {target} in the container"}
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    try:
        syscall.syscall(syscall.MOVE_MOUNT, tree, b"", old, b"", flags | _MOVE_MOUNT_BENEATH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        syscall.syscall(syscall.MOVE_MOUNT, tree, b"", old, b"", flags)
        return {"how": "above"}
    # By descriptor, through the host's own /proc: no path of the container's can lead to another of its mounts.
    os.fchdir(proc)
    syscall.umount2(f"self/fd/{old}".encode(), _MNT_DETACH)
    return {"how": "beneath"}


def _start_time(proc: int, pid: int) -> int:
    fd = os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
    finally:
        os.close(fd)


def _tell(result: dict[str, object]) -> int:
    os.write(1, json.dumps(result).encode() + b"\n")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
