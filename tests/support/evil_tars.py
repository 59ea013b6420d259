"""Archives that try to get out of the directory that they are unpacked in: one corpus for every way in.

    for evil in evil_tars(canary): feed evil.data through pull, ADD, context upload, cp...; then look at the canary

Each aims at `canary`, a directory of the host, absolutely or by ../../../.. An archive may be refused or harmlessly
unpacked: what counts is that nothing outside changes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

UP = "../" * 12


@dataclass(frozen=True)
class EvilTar:
    """An uncompressed tar. `layer`: what unpacking it as an image layer must do; "refused" or "contained"."""

    name: str
    data: bytes
    layer: str


def evil_tars(canary: Path) -> Iterator[EvilTar]:
    """The corpus. The canary directory holds a file `file` and an empty directory `dir`."""
    inside = str(canary).lstrip("/")
    for name, verdict, build in _CASES:
        yield EvilTar(name, _tar(build, str(canary), inside), verdict)


class _Builder:
    """Adds members with names exactly as given (tarfile strips nothing here)."""

    def __init__(self, canary: str, inside: str) -> None:
        self.canary = canary
        self.inside = inside
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(
        self, name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"evil", **more: object
    ) -> None:
        info = _Raw(name)
        info.type, info.linkname, info.mode, info.mtime = kind, link, 0o777, 1
        info.uid = info.gid = 1000
        for key, value in more.items():
            setattr(info, key, value)
        if kind == tarfile.REGTYPE:
            info.size = len(content)
        self.tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)

    def link(self, name: str, to: str) -> None:
        self.add(name, tarfile.SYMTYPE, to)

    def hard(self, name: str, to: str) -> None:
        self.add(name, tarfile.LNKTYPE, to)

    def dir(self, name: str) -> None:
        self.add(name, tarfile.DIRTYPE)


class _Raw(tarfile.TarInfo):
    def get_info(self) -> Mapping[str, str | int | bytes | Mapping[str, str]]:
        return {**super().get_info(), "name": self.name}


_Case = Callable[[_Builder], None]
_CASES: list[tuple[str, str, _Case]] = []


def _case(verdict: str) -> Callable[[_Case], _Case]:
    def keep(build: _Case) -> _Case:
        _CASES.append((build.__name__.strip("_"), verdict, build))
        return build

    return keep


def _tar(build: _Case, canary: str, inside: str) -> bytes:
    builder = _Builder(canary, inside)
    build(builder)
    builder.tar.close()
    return builder.out.getvalue()


@_case("refused")
def _dot_dot(b: _Builder) -> None:
    b.add(f"{UP}{b.inside}/new")


@_case("refused")
def _dot_dot_overwrites(b: _Builder) -> None:
    b.add(f"a/../../{UP}{b.inside}/file")


@_case("refused")
def _dot_dot_directory_mode(b: _Builder) -> None:
    b.dir(f"{UP}{b.inside}/dir")


@_case("refused")
def _dot_dot_symlink(b: _Builder) -> None:
    b.link(f"{UP}{b.inside}/new", "/etc/passwd")


@_case("contained")
def _absolute(b: _Builder) -> None:
    b.add(f"{b.canary}/new")


@_case("contained")
def _absolute_overwrites(b: _Builder) -> None:
    b.add(f"//{b.canary}/file")


@_case("contained")
def _symlink_parent_absolute(b: _Builder) -> None:
    b.link("out", b.canary)
    b.add("out/new")
    b.add("out/file")


@_case("contained")
def _symlink_parent_relative(b: _Builder) -> None:
    b.link("out", f"{UP}{b.inside}")
    b.add("out/new")
    b.add("out/file")
    b.dir("out/dir")


@_case("refused")
def _symlink_chain(b: _Builder) -> None:
    """CVE-2025-4517: a path that realpath() gives up on, so that a check of it passes."""
    component = "d" * 247
    path = ""
    for letter in "abcdefghijklmnop":
        b.dir(path + component)
        b.link(path + letter, component)
        path += component + "/"
    short = "/".join("abcdefghijklmnop")
    b.link(short + "/" + "l" * 254, "../" * 16)
    b.link("escape", f"{short}/{'l' * 254}/{UP}{b.inside}")
    b.add("escape/new")
    b.hard("flaglink", "escape/file")


@_case("contained")
def _symlink_loop(b: _Builder) -> None:
    b.link("a", "b")
    b.link("b", "a")


@_case("refused")
def _symlink_loop_parent(b: _Builder) -> None:
    b.link("a", "b")
    b.link("b", "a")
    b.add("a/new")


@_case("contained")
def _symlink_leaf_overwritten(b: _Builder) -> None:
    b.link("leaf", f"{b.canary}/file")
    b.add("leaf")


@_case("contained")
def _symlink_replaced_by_directory(b: _Builder) -> None:
    b.link("d", b.canary)
    b.dir("d")
    b.add("d/new")


@_case("contained")
def _directory_replaced_by_symlink(b: _Builder) -> None:
    b.dir("d")
    b.dir("d/dir")
    b.link("d", b.canary)
    b.add("d/new")


@_case("refused")
def _hard_link_out(b: _Builder) -> None:
    b.hard("h", f"{b.canary}/file")
    b.add("h")


@_case("refused")
def _hard_link_dot_dot(b: _Builder) -> None:
    b.hard("h", f"{UP}{b.inside}/file")


@_case("refused")
def _hard_link_through_symlink(b: _Builder) -> None:
    b.link("out", b.canary)
    b.hard("h", "out/file")
    b.add("h")


@_case("contained")
def _hard_link_to_symlink(b: _Builder) -> None:
    b.link("s", f"{b.canary}/file")
    b.hard("h", "s")
    b.add("h")


@_case("refused")
def _hard_link_to_itself(b: _Builder) -> None:
    b.add("h")
    b.hard("h", "h")


@_case("refused")
def _hard_link_to_nothing(b: _Builder) -> None:
    b.hard("h", "missing")


@_case("contained")
def _whiteout_through_symlink(b: _Builder) -> None:
    b.link("out", b.canary)
    b.add("out/.wh.file", content=b"")
    b.add("out/.wh..wh..opq", content=b"")


@_case("refused")
def _whiteout_of_dot(b: _Builder) -> None:
    b.add("a/.wh..", content=b"")


@_case("refused")
def _whiteout_of_dot_dot(b: _Builder) -> None:
    b.add("a/.wh...", content=b"")


@_case("refused")
def _whiteout_of_nothing(b: _Builder) -> None:
    b.add(".wh.", content=b"")


@_case("refused")
def _member_below_whiteout(b: _Builder) -> None:
    b.add(".wh.a/b")


@_case("contained")
def _aufs_bookkeeping(b: _Builder) -> None:
    b.dir(".wh..wh.plnk")
    b.add(".wh..wh.plnk/1.2")
    b.add(".wh..wh.aufs", content=b"")


@_case("contained")
def _device(b: _Builder) -> None:
    b.add("disk", tarfile.BLKTYPE, devmajor=8, devminor=0)
    b.add("mem", tarfile.CHRTYPE, devmajor=1, devminor=1)


@_case("contained")
def _set_user_id(b: _Builder) -> None:
    b.add("su", mode=0o6755, uid=0, gid=0)


@_case("contained")
def _overlay_xattrs(b: _Builder) -> None:
    xattrs = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    b.add("d", tarfile.DIRTYPE, pax_headers=xattrs)
    b.add("f", pax_headers={"SCHILY.xattr.trusted.overlay.metacopy": "", "SCHILY.xattr.security.selinux": "x"})


@_case("refused")
def _name_of_dots(b: _Builder) -> None:
    b.add("..")


@_case("refused")
def _root_is_a_file(b: _Builder) -> None:
    b.add("./")
    b.link(".", b.canary)


@_case("refused")
def _parent_is_a_file(b: _Builder) -> None:
    b.add("f")
    b.add("f/g")


@_case("refused")
def _name_too_long(b: _Builder) -> None:
    b.add("n" * 5000)


@_case("refused")
def _path_too_deep(b: _Builder) -> None:
    b.add("d/" * 3000 + "f")


@_case("refused")
def _owner_out_of_range(b: _Builder) -> None:
    b.add("f", uid=1 << 32)


@_case("refused")
def _zero_byte_in_a_pax_name(b: _Builder) -> None:
    b.add("f", pax_headers={"path": f"a\0/{UP}"})


@_case("refused")
def _pax_path_out(b: _Builder) -> None:
    b.add("harmless", pax_headers={"path": f"{UP}{b.inside}/new"})


@_case("contained")
def _imported_code(b: _Builder) -> None:
    """What a careless host program would load from here (CVE-2019-14271, CVE-2026-41567)."""
    trap = f"import os; open('{b.canary}/new','w')".encode()
    for name in (
        "sitecustomize.py",
        "encodings/idna.py",
        "linecache.py",
        "etc/nsswitch.conf",
        "usr/lib/gconv/gconv-modules",
        "etc/ssl/openssl.cnf",
        "usr/lib/ssl/openssl.cnf",
    ):
        b.add(name, content=trap)
    for name in ("usr/bin/xz", "usr/bin/gzip", "bin/unpigz", "usr/bin/zstd"):
        b.add(name, content=f"#!/bin/sh\ntouch {b.canary}/new\n".encode(), mode=0o755)
