"""Paths of a Linux image as BuildKit normalises them: always absolute, `..` never above the root."""

from __future__ import annotations

import posixpath


def clean(path: str, directory: str = "/") -> str:
    """`path`, relative to `directory`, as a clean absolute path without a final slash (but for the root itself)."""
    joined = posixpath.normpath(posixpath.join("/", directory, path))
    return "/" + joined.lstrip("/")


def is_directory_form(path: str) -> bool:
    """Whether a destination is written as a directory: empty, `.`, or with `/` or `/.` at the end."""
    return path in {"", "."} or path.endswith(("/", "/."))
