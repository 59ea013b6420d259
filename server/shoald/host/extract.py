"""Members of an archive become files below the working directory, which must be the root of a confined process.

Paths are cleaned lexically and then resolved by the kernel inside that root: a symlink of the archive leads where it
leads inside the image, never out of it. What Docker and containerd do with duplicates holds: the last one wins, and
only a directory over a directory is merged.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass
from typing import Final

from shoald.host.confine import SYS_ADMIN, Raised
from shoald.host.tarmembers import BLOCKDEV, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Member
from shoald.host.tarsource import Limits, Refused, TarSource

_WHITEOUT: Final = b".wh."
_AUFS: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"
_OPAQUE_XATTR: Final = "trusted.overlay.opaque"
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_IMPLICIT = 100_000
_MAX_IMPLICIT_BYTES = 8 << 20
_MAX_DEPTH = 512
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Rules:
    """How an archive is meant."""

    whiteouts: bool
    """`.wh.` names delete what lower layers have."""
    devices: bool
    """Devices and fifos are made; else they are refused."""
    xattrs: bool
    fifos: bool = False
    """Fifos are made also without devices."""
    owner: tuple[int, int] | None = None
    """Everything belongs to it, whatever the archive says."""
    id_base: int = 0
    """Added to all owners."""


LAYER = Rules(whiteouts=True, devices=True, xattrs=True)
CONTEXT = Rules(whiteouts=False, devices=False, xattrs=False, owner=(0, 0), fifos=True)
ARCHIVE = Rules(whiteouts=False, devices=True, xattrs=True)
VOLUME = Rules(whiteouts=False, devices=False, xattrs=True, fifos=True)


class Extractor:
    """Makes the files of one archive. `add` each member in order, then `finish`."""

    def __init__(self, source: TarSource, rules: Rules, limits: Limits, into: bytes = b"") -> None:
        self.entries = 0
        self.content_bytes = 0
        """Apparent size of all regular files."""
        self.implicit: list[bytes] = []
        """Directories that members needed but the archive does not have; b"" is the root."""
        self.opaque_root = False
        self._implicit_bytes = 0
        self._source = source
        self._rules = rules
        self._limits = limits
        self._into = into
        self._known: set[bytes] = {b""}
        """Directories (or symlinks to some) that are there."""
        self._setgid: set[bytes] = set()
        self._whiteouts: set[bytes] = set()
        self._times: dict[bytes, int] = {}

    def add(self, member: Member) -> None:
        """Make one member and take its bytes from the source. Raises Refused, OSError."""
        self.entries += 1
        if self.entries > self._limits.entries:
            raise Refused(f"archive has more than {self._limits.entries} members", "ARCHIVE_TOO_LARGE")
        path = clean(member.name)
        if self._rules.whiteouts and _WHITEOUT in path and self._whiteout(path, member):
            self._source.skip(member.stored)
            return
        if self._into:
            path = posixpath.join(self._into, path) if path else self._into
        if not path and member.type != DIRECTORY:
            raise Refused(f"a member that is no directory has the name {shown(member.name)}")
        if path.count(b"/") > _MAX_DEPTH:
            raise Refused(f"{shown(member.name)} is more than {_MAX_DEPTH} directories deep")
        parent = path.rpartition(b"/")[0]
        if parent not in self._known:
            self._make_parents(parent)
        if member.type == FILE:
            self._file(member, path, parent)
        elif member.type == DIRECTORY:
            self._directory(member, path)
            self._source.skip(member.stored)
        elif member.type == SYMLINK:
            self._node(path, lambda: os.symlink(member.link, path))
            self._describe(member, path, parent)
        elif member.type == HARDLINK:
            self._hardlink(member, path)
        else:
            self._device(member, path, parent)

    def finish(self) -> None:
        """Set the times of directories, now that nothing changes in them any more."""
        if b"" not in self._times and not self._into:
            self.implicit.append(b"")
        for path, mtime_ns in self._times.items():
            # A later member may have replaced it.
            if stat.S_ISDIR(_mode(path or b".")):
                os.utime(path or b".", ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def make_directory(self, path: bytes) -> None:
        """Make sure that a directory is there."""
        self._make_parents(path)

    def _owner(self, member: Member) -> tuple[int, int]:
        uid, gid = self._rules.owner or (member.uid, member.gid)
        return uid + self._rules.id_base, gid + self._rules.id_base

    def _file(self, member: Member, path: bytes, parent: bytes) -> None:
        self.content_bytes += member.size
        if self.content_bytes > self._limits.total:
            raise Refused(f"archive has files of more than {self._limits.total} bytes", "ARCHIVE_TOO_LARGE")
        try:
            fd = os.open(path, _CREATE, member.mode)
        except FileExistsError:
            self._clear(path)
            fd = os.open(path, _CREATE, member.mode)
        try:
            if member.sparse is None:
                if member.size:
                    self._source.copy(fd, member.size)
            else:
                for offset, length in member.sparse:
                    os.lseek(fd, offset, os.SEEK_SET)
                    self._source.copy(fd, length)
                os.ftruncate(fd, member.size)
            owner = self._owner(member)
            if owner != (0, 0) or parent in self._setgid:
                os.fchown(fd, *owner)
            if member.mode & 0o6000:
                os.fchmod(fd, member.mode)
            if member.xattrs:
                self._set_xattrs(fd, member.xattrs)
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, member: Member, path: bytes) -> None:
        real = path or b"."
        hides = path in self._whiteouts
        if path:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    self._clear(path)
                    os.mkdir(path, 0o700)
        os.chown(real, *self._owner(member), follow_symlinks=False)
        os.chmod(real, member.mode)
        if member.xattrs:
            self._set_xattrs(real, member.xattrs)
        if hides:
            self._set_opaque(path)
        self._known.add(path)
        (self._setgid.add if member.mode & stat.S_ISGID else self._setgid.discard)(path)
        self._times[path] = member.mtime_ns

    def _node(self, path: bytes, make: object) -> None:
        assert callable(make)
        try:
            make()
        except FileExistsError:
            self._clear(path)
            make()

    def _hardlink(self, member: Member, path: bytes) -> None:
        target = clean(member.link)
        if self._into:
            target = posixpath.join(self._into, target)
        if target == path:
            raise Refused(f"{shown(member.name)} is a hard link to itself")
        try:
            self._node(path, lambda: os.link(target, path, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Refused(
                f"hard link {shown(member.name)} to {shown(member.link)}: {os.strerror(error.errno or 0)}"
            ) from error

    def _device(self, member: Member, path: bytes, parent: bytes) -> None:
        if not (self._rules.devices or (self._rules.fifos and member.type == FIFO)):
            raise Refused(f"{shown(member.name)} is a device or a fifo, which this archive may not have")
        kinds = {CHAR: stat.S_IFCHR, BLOCKDEV: stat.S_IFBLK, FIFO: stat.S_IFIFO}
        mode = kinds[member.type] | member.mode
        if member.major >= 1 << 12 or member.minor >= 1 << 20:
            raise Refused(f"{shown(member.name)} has the device number {member.major}:{member.minor}")
        device = os.makedev(member.major, member.minor)
        self._node(path, lambda: os.mknod(path, mode, device))
        self._describe(member, path, parent)

    def _describe(self, member: Member, path: bytes, parent: bytes) -> None:
        """Owner, attributes and time of what can't be opened."""
        owner = self._owner(member)
        if owner != (0, 0) or parent in self._setgid:
            os.chown(path, *owner, follow_symlinks=False)
            if member.type != SYMLINK and member.mode & 0o6000:
                os.chmod(path, member.mode)
        if member.xattrs:
            self._set_xattrs(path, member.xattrs)
        os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)

    def _set_xattrs(self, file: int | bytes, xattrs: dict[bytes, bytes]) -> None:
        """Those of the image itself; what overlayfs or a security module of the host would obey is dropped."""
        if not self._rules.xattrs:
            return
        for name, value in xattrs.items():
            if name != b"security.capability" and not name.startswith(b"user."):
                continue
            try:
                if isinstance(file, int):
                    os.setxattr(file, name, value)
                else:
                    os.setxattr(file, name, value, follow_symlinks=False)
            except OSError as error:
                # Symlinks and devices take no user.*, some file systems none at all.
                if not (error.errno in _UNSUPPORTED and name.startswith(b"user.")):
                    raise

    def _whiteout(self, path: bytes, member: Member) -> bool:
        """Handle a name with `.wh.`; False when it is an ordinary one after all."""
        parent, _, name = path.rpartition(b"/")
        if path.startswith(_AUFS) and path != _OPAQUE:
            return True  # bookkeeping of aufs, as in images of ten years ago
        if any(part.startswith(_WHITEOUT) for part in parent.split(b"/")):
            raise Refused(f"{shown(member.name)} is below a whiteout")
        if not name.startswith(_WHITEOUT):
            return False
        if name == _OPAQUE:
            if parent not in self._known:
                self._make_parents(parent)
            self._set_opaque(parent)
            return True
        if name.startswith(_AUFS):
            return True
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise Refused(f"{shown(member.name)} is no valid whiteout")
        if parent not in self._known:
            self._make_parents(parent)
        self._hide(posixpath.join(parent, hidden) if parent else hidden)
        return True

    def _hide(self, path: bytes) -> None:
        """A whiteout concerns lower layers only: what this layer has itself stays, but is merged with nothing."""
        try:
            os.mknod(path, stat.S_IFCHR, 0)
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._set_opaque(path)
            return
        self._whiteouts.add(path)

    def _set_opaque(self, path: bytes) -> None:
        if not path:
            self.opaque_root = True
        with Raised(SYS_ADMIN):
            os.setxattr(path or b".", _OPAQUE_XATTR, b"y")

    def _make_parents(self, path: bytes) -> None:
        """Make all directories of `path` that are missing."""
        if stat.S_ISDIR(_mode(path, follow=True)):
            self._known.add(path)
            return
        at = path.find(b"/")
        while at >= 0:
            self._make_implicit(path[:at])
            at = path.find(b"/", at + 1)
        self._make_implicit(path)

    def _make_implicit(self, path: bytes) -> None:
        if path in self._known:
            return
        try:
            found = os.stat(path)
        except FileNotFoundError:
            if os.path.islink(path):
                # A link to what only lower layers have: its target is what they mean.
                target = os.path.realpath(b"/" + path)[1:]
                if os.path.islink(target):
                    raise Refused(f"{shown(path)} is a symlink to itself") from None
                self._make_parents(target)
            else:
                self._mkdir_implicit(path)
        else:
            if path in self._whiteouts:
                os.unlink(path)
                self._whiteouts.discard(path)
                self._mkdir_implicit(path)
                self._set_opaque(path)
            elif not stat.S_ISDIR(found.st_mode):
                raise Refused(f"{shown(path)} is no directory, but has members")
        self._known.add(path)

    def _mkdir_implicit(self, path: bytes) -> None:
        os.mkdir(path, 0o755)
        if self._rules.id_base:
            os.chown(path, self._rules.id_base, self._rules.id_base)
        self.implicit.append(path)
        self._implicit_bytes += len(path)
        if len(self.implicit) > _MAX_IMPLICIT or self._implicit_bytes > _MAX_IMPLICIT_BYTES:
            raise Refused(f"archive lacks {len(self.implicit)} directories or more", "ARCHIVE_TOO_LARGE")

    def _clear(self, path: bytes) -> None:
        """Remove what is at `path`, whole trees too, to make room for a later member."""
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            self._whiteouts.discard(path)
        else:
            _remove_tree(path)
            self._times.pop(path, None)
        # Other names may have led there through symlinks.
        self._known = {b""}


def clean(name: bytes) -> bytes:
    """The name relative to the root, without `.`, `..` and empty elements (b"": the root). Raises Refused when it leads
    out of the root."""
    if name.startswith(b"./"):
        name = name[2:]
    name = name.rstrip(b"/")
    if not (name[:1] in (b".", b"/", b"") or b"/." in name or b"//" in name):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Refused(f"{shown(name)} leads out of the archive's root", "PATH_ESCAPE")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def shown(name: bytes) -> str:
    """A name for messages: printable, of bounded length."""
    return ascii(name[:200].decode(errors="backslashreplace"))


def _mode(path: bytes, *, follow: bool = False) -> int:
    """The mode of what is at `path`; 0 when there is nothing."""
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _remove_tree(top: bytes) -> None:
    stack = [top]
    while stack:
        path = stack[-1]
        below: list[bytes] = []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    os.unlink(entry.path)
        if below:
            stack += below
        else:
            os.rmdir(path)
            stack.pop()
