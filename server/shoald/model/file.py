"""Files of a client."""

from __future__ import annotations

from msgspec import Struct


class TreeEntry(Struct, frozen=True):
    """One file, directory or symbolic link of a tree: exactly one of `blob`, `link` and `directory` is set."""

    path: str
    """Relative, with "/"; empty for the root: a directory, or the one file that the tree is."""
    blob: str = ""
    """Digest of a regular file's content."""
    link: str = ""
    """Target of a symbolic link, never followed on the host."""
    directory: bool = False
    mode: int = 0
    """Permission bits."""
    modified_ns: int = 0
