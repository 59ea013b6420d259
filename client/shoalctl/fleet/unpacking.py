"""An archive from a host becomes files of this machine. Whatever it holds, nothing outside its directory is touched.

The archive may come from a hostile host or container: names that lead out of the directory are refused, and so is a
member below a symbolic link, one that the archive itself has made or one that was there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import BinaryIO

from shoal.errors import FailedPrecondition, InvalidArgument

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_CHUNK = 1 << 20
_MAX_DEPTH = 512


class LocalTarget:
    """Unpacks below `directory`, which exists. The first component of each name becomes `name`. Blocking.

    Files belong to whoever calls, and lose setuid and setgid, unless `keep_owner`.
    """

    def __init__(self, directory: str, name: str, *, keep_owner: bool = False) -> None:
        self._directory = Path(directory)
        self._name = name
        self._keep_owner = keep_owner
        self._times: dict[Path, float] = {}
        self._modes: dict[Path, int] = {}
        self.size = 0
        """Bytes of files so far."""

    def unpack(self, stream: BinaryIO) -> None:
        """Read the archive to its end. Raises InvalidArgument (BAD_ARCHIVE, PATH_ESCAPE), FailedPrecondition
        (TYPE_CONFLICT, LOCAL_WRITE_FAILED)."""
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 16) as archive:
                for member in archive:
                    self._add(archive, member)
        except tarfile.TarError as error:
            raise InvalidArgument(f"the host sent a bad archive: {error}", reason="BAD_ARCHIVE") from error
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            raise FailedPrecondition(
                f"can't write{where}: {error.strerror or error}", reason="LOCAL_WRITE_FAILED"
            ) from error
        for path, mode in reversed(self._modes.items()):
            with contextlib.suppress(FileNotFoundError):
                os.chmod(path, mode)
                os.utime(path, (self._times[path], self._times[path]))

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._placed(member.name, parents=True)
        if member.isdir():
            self._make_directory(path, member)
            return
        self._clear(path, member.name)
        if member.isreg():
            self._file(archive, member, path)
        elif member.issym():
            os.symlink(member.linkname, path)
        elif member.islnk():
            source = self._placed(member.linkname, parents=False)
            os.link(source, path, follow_symlinks=False)
            return
        else:
            _special(path, member)
        self._own(path, member)
        if not member.issym():
            os.chmod(path, self._mode(member))
            os.utime(path, (member.mtime, member.mtime))

    def _placed(self, name: str, *, parents: bool) -> Path:
        """Where a member goes. No component of its parent is a symbolic link; missing ones are made."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name or (os.name == "nt" and _odd(name)):
            raise InvalidArgument(f"the host sent the name {name!r}", reason="PATH_ESCAPE")
        if len(parts) > _MAX_DEPTH:
            raise InvalidArgument(f"the host sent a name of {len(parts)} directories", reason="BAD_ARCHIVE")
        if self._name != "." and not name.startswith("./") and name != ".":
            parts = [self._name, *parts[1:]]
        elif self._name != ".":
            parts = [self._name, *parts]
        path = self._directory
        for number, part in enumerate(parts):
            if number and not self._is_directory(path):
                if not parents:
                    raise InvalidArgument(f"{name!r} is not in the archive", reason="BAD_ARCHIVE")
                os.mkdir(path)
            path = path / part
        return path

    def _is_directory(self, path: Path) -> bool:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise InvalidArgument(f"the host sent a file below {path}, which is no directory", reason="PATH_ESCAPE")
        return True

    def _make_directory(self, path: Path, member: tarfile.TarInfo) -> None:
        if path == self._directory:
            return  # the content of a directory goes into one that is there and stays as it is
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise FailedPrecondition(
                    f"{path} is no directory and is not replaced by one", reason="TYPE_CONFLICT"
                ) from None
        self._own(path, member)
        # At the end: a directory may be read-only, and its time changes with each file.
        self._modes[path], self._times[path] = self._mode(member), member.mtime

    def _clear(self, path: Path, name: str) -> None:
        if path == self._directory:
            raise InvalidArgument(f"the host sent the name {name!r}", reason="PATH_ESCAPE")
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise FailedPrecondition(f"{path} is a directory and is not replaced by a file", reason="TYPE_CONFLICT")
        os.unlink(path)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        source = archive.extractfile(member)
        assert source is not None
        with open(os.open(path, _CREATE, 0o600), "wb", buffering=0) as file:
            shutil.copyfileobj(source, file, _CHUNK)
        self.size += member.size

    def _own(self, path: Path, member: tarfile.TarInfo) -> None:
        if self._keep_owner and os.name == "posix":
            # As cp -a: whoever may not give files away keeps them.
            with contextlib.suppress(PermissionError):
                os.chown(path, member.uid, member.gid, follow_symlinks=False)

    def _mode(self, member: tarfile.TarInfo) -> int:
        return member.mode & (0o7777 if self._keep_owner else 0o1777)


def _special(path: Path, member: tarfile.TarInfo) -> None:
    if not (member.isfifo() or member.ischr() or member.isblk()):
        raise InvalidArgument(f"{member.name!r} is of an unknown kind", reason="BAD_ARCHIVE")
    if not hasattr(os, "mkfifo"):
        raise InvalidArgument(f"this system can't have {member.name!r}, a pipe or device", reason="BAD_ARCHIVE")
    if member.isfifo():
        os.mkfifo(path, member.mode & 0o777)
        return
    kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
    os.mknod(path, kind | member.mode & 0o777, os.makedev(member.devmajor, member.devminor))


def _odd(name: str) -> bool:
    """What Windows would not take as a plain name."""
    return any(character in name for character in '\\:*?"<>|')
