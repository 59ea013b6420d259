"""Layer archives from plain dictionaries: path -> content, directory, symlink, hard link, device."""

from __future__ import annotations

import functools
import io
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backports import zstd

from shoald.oci.mediatypes import Compression

BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class File:
    """A regular file."""

    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dir:
    """A directory."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Symlink:
    """A symbolic link; the target is taken as it is."""

    target: str


@dataclass(frozen=True)
class Hardlink:
    """A hard link to an earlier member of the same archive."""

    target: str


@dataclass(frozen=True)
class Device:
    """A character ("c") or block ("b") device."""

    kind: str
    major: int
    minor: int
    mode: int = 0o666


Entry = bytes | str | File | Dir | Symlink | Hardlink | Device | None
"""bytes and str are files of mode 0644; None is a directory."""
Layer = Mapping[str, Entry] | bytes
"""A dictionary to make an archive of, or the bytes of an uncompressed tar as it shall be."""


def make_tar(layer: Layer) -> bytes:
    """The uncompressed tar of a layer, members in the dictionary's order, names as they are (evil ones included)."""
    if isinstance(layer, bytes):
        return layer
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, entry in layer.items():
            info, content = _member(name, entry)
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def compress(data: bytes, compression: Compression) -> bytes:
    """The same bytes, compressed; always the same for the same input."""
    match compression:
        case Compression.GZIP:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            return packer.compress(data) + packer.flush()
        case Compression.ZSTD:
            return bytes(zstd.compress(data))
        case Compression.NONE:
            return data


@functools.cache
def busybox_layer() -> bytes:
    """The tar of a small real system: static busybox, a symlink for each applet, users, /tmp, /etc."""
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True, text=True).stdout.split()
    layer: dict[str, Entry] = {
        "bin": None,
        "bin/busybox": File(BUSYBOX.read_bytes(), 0o755),
        **{f"bin/{applet}": Symlink("busybox") for applet in listed if applet != "busybox"},
        "dev": None,
        "etc": None,
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        "etc/group": "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n",
        "etc/shadow": File(b"root:*:::::::\n", 0o640),
        "home": None,
        "lib": None,
        "proc": None,
        "root": Dir(0o700),
        "sbin": Symlink("bin"),
        "sys": None,
        "tmp": Dir(0o1777),
        "usr": None,
        "usr/bin": None,
        "usr/bin/env": Symlink("../../bin/env"),
        "usr/sbin": None,
        "var": None,
        "var/tmp": Dir(0o1777),
        "var/www": Dir(0o755, 33, 33),
    }
    return make_tar(layer)


def _member(name: str, entry: Entry) -> tuple[tarfile.TarInfo, bytes | None]:
    info = tarfile.TarInfo(name)
    info.mode = 0o777
    content: bytes | None = None
    match entry:
        case None | Dir():
            found = entry or Dir()
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, found.mode, found.uid, found.gid
        case Symlink(target):
            info.type, info.linkname = tarfile.SYMTYPE, target
        case Hardlink(target):
            info.type, info.linkname = tarfile.LNKTYPE, target
        case Device(kind, major, minor, mode):
            info.type = tarfile.CHRTYPE if kind == "c" else tarfile.BLKTYPE
            info.devmajor, info.devminor, info.mode = major, minor, mode
        case bytes() | str() | File():
            file = entry if isinstance(entry, File) else File(entry if isinstance(entry, bytes) else entry.encode())
            content = file.content
            info.size, info.mode, info.uid, info.gid = len(content), file.mode, file.uid, file.gid
            info.mtime = file.mtime
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in file.xattrs.items()}
    return info, content
