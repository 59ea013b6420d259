"""The content of one file into another: shared extents where the file system can, else inside the kernel; holes stay
holes."""

from __future__ import annotations

import errno
import fcntl
import os

_FICLONE = 0x40049409
_CHUNK = 1 << 30
_BUFFER = 1 << 20
_NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EPERM)


def copy_content(source: int, out: int) -> None:
    """Copy all of `source` into the empty file `out`. Raises OSError."""
    try:
        fcntl.ioctl(out, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data from here on
                raise
            break
        _copy_range(source, out, begin, end)
        at = end
    os.ftruncate(out, size)


def _copy_range(source: int, out: int, begin: int, end: int) -> None:
    os.lseek(source, begin, os.SEEK_SET)
    os.lseek(out, begin, os.SEEK_SET)
    left = end - begin
    try:
        while left and (done := os.copy_file_range(source, out, min(left, _CHUNK))):
            left -= done
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    while left and (data := os.read(source, min(left, _BUFFER))):
        write_all(out, data)
        left -= len(data)


def write_all(out: int, data: bytes) -> None:
    """Write every byte. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]
