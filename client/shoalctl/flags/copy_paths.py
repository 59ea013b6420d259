"""The arguments of `shoal cp`, and docker's rules of what goes where. Pure."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from shoalctl.flags.fault import UsageFault

STREAM = "-"


@dataclass(frozen=True, slots=True)
class CopyPath:
    """A place: a path of a container, or of this machine (`container` is empty then)."""

    container: str
    path: str


def parse_copy_path(text: str, *, windows: bool = os.name == "nt") -> CopyPath:
    """`CONTAINER:PATH`, or a local path. A local path with a colon is written absolute or with `./` in front."""
    if not text:
        raise UsageFault("a path is empty")
    if text.startswith(("/", ".")) or (windows and text[1:2] == ":" and text[2:3] in ("\\", "/")):
        return CopyPath("", text)
    container, colon, path = text.partition(":")
    if not colon:
        return CopyPath("", text)
    if not container or not path:
        raise UsageFault(f"{text!r} lacks a container or a path", hint="write CONTAINER:PATH")
    return CopyPath(container, path)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an archive is unpacked, and how its first member is called there."""

    directory: str
    name: str


def names_content(path: str) -> bool:
    """Whether a path ends with `/.`: what is in the directory, not the directory."""
    return path in (".", "") or path.endswith("/.")


def asserts_directory(path: str) -> bool:
    """Whether a path says that it is a directory."""
    return path.endswith("/") or names_content(path)


def split(path: str) -> tuple[str, str]:
    """Directory and last component; "." for one that names a directory's content."""
    clean = posixpath.normpath(path)
    if names_content(path) or clean == "/":
        return clean, "."
    return posixpath.dirname(clean) or ".", posixpath.basename(clean)


def target(
    source_name: str, *, source_is_directory: bool, path: str, exists: bool, is_directory: bool, shown: str = ""
) -> Target:
    """What docker cp does with a source that is called `source_name` ("." for a directory's content) and a destination
    `path` (links resolved). `shown` is what messages call the destination. Raises UsageFault where it refuses."""
    shown = shown or path
    if exists and is_directory:
        return Target(path, source_name)
    if exists and source_is_directory:
        raise UsageFault(f"can't copy a directory to the file {shown}")
    if exists and asserts_directory(path):
        raise UsageFault(f"{shown} is not a directory")
    if not exists and not source_is_directory and asserts_directory(path):
        raise UsageFault(f"there is no directory {shown}", hint="make it first, or leave out the slash at its end")
    directory, name = split(path.rstrip("/") or "/" if not names_content(path) else posixpath.normpath(path))
    return Target(directory, name)
