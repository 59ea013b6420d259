"""Where a build's Dockerfile and context come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from shoal.errors import InvalidArgument
from shoalctl.flags.fault import UsageFault

MAX_DOCKERFILE = 1024 * 1024
_FROM = re.compile(rb"^[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*(\S+)(?:[ \t]+AS[ \t]+(\S+))?", re.IGNORECASE | re.MULTILINE)
_COPY_FROM = re.compile(rb"--from=(\S+)|--mount=\S*from=([^,\s]+)", re.IGNORECASE)


class Source(NamedTuple):
    """A Dockerfile's text and name, and the directory of the context (None: it is empty)."""

    text: bytes
    name: str
    directory: Path | None
    path: Path | None = None


def from_directory(directory: str, file: str) -> Source:
    """The source for `build [-f FILE] DIRECTORY`. Raises UsageFault."""
    if "://" in directory or directory.startswith("git@"):
        raise UsageFault(f"the context {directory!r} is a URL", hint="fetch it first, and give its directory")
    root = Path(directory)
    if not root.is_dir():
        raise UsageFault(f"the build context {directory!r} is not a directory", hint="shoal build [-f FILE] DIRECTORY")
    path = Path(file) if file else root / "Dockerfile"
    if not file and not path.exists() and (root / "dockerfile").exists():
        path = root / "dockerfile"
    return Source(_read(path), file or path.name, root, path)


def external_domain(text: bytes) -> str | None:
    """The one registry that all images of a Dockerfile come from; None when there are several, or it can't be told.

    Credentials may only go where it is certain that they belong.
    """
    from shoal.reference import Reference

    stages = {match[2].lower() for match in _FROM.finditer(text) if match[2]}
    wanted = [match[1] for match in _FROM.finditer(text)]
    wanted += [match[1] or match[2] for match in _COPY_FROM.finditer(text)]
    domains = set()
    for name in wanted:
        if name.lower() in stages or name.lower() == b"scratch" or name.isdigit():
            continue
        try:
            domains.add(Reference.parse(name.decode("ascii")).domain)
        except (InvalidArgument, UnicodeDecodeError):
            return None
    return domains.pop() if len(domains) == 1 else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DOCKERFILE + 1)
    except OSError as error:
        raise UsageFault(
            f"can't read the Dockerfile {path}: {error.strerror}", hint="name it with -f if it is elsewhere"
        ) from error
    if len(text) > MAX_DOCKERFILE:
        raise UsageFault(f"the Dockerfile {path} has more than {MAX_DOCKERFILE} bytes")
    return text
