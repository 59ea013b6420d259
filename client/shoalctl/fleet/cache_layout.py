"""A cache of builds in a directory of this machine: an OCI image layout (image-spec `image-layout.md`), as it is read.

The directory may come from anywhere: no link in it is followed, and nothing but regular files below `blobs` is read.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from shoal.errors import FailedPrecondition, InvalidArgument, NotFound
from shoalctl.fleet.localtree import READ

REF_NAME = "org.opencontainers.image.ref.name"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MAX_DOCUMENT_BYTES = 4 << 20
LATEST = "latest"
_DOCUMENTS = ("manifest.v1+json", "index.v1+json", "manifest.v2+json", "manifest.list.v2+json")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})").fullmatch


class Part(NamedTuple):
    """Some content by type, digest ("sha256:HEX") and size in bytes."""

    media_type: str
    digest: str
    size: int


class CacheLayout:
    """Reads a layout (blocking)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def find(self, tag: str = "", digest: str = "") -> Part:
        """The manifest with the digest, else with the tag; without both `latest`, or the only one that there is.

        Raises NotFound (CACHE_MISSING), InvalidArgument (BAD_CACHE).
        """
        entries = [(part, name) for part, name in map(_entry, self.entries()) if part is not None]
        if digest:
            for part, _ in entries:
                if part.digest == digest:
                    return part
            body = self.document(digest)  # buildx leaves manifests of earlier times, which no tag has any more
            kind = _object(body, digest).get("mediaType")
            return Part(kind if isinstance(kind, str) else OCI_MANIFEST, digest, len(body))
        for part, name in entries:
            if name == (tag or LATEST) or name.endswith(f":{tag or LATEST}"):
                return part
        if not tag and len(entries) == 1:
            return entries[0][0]
        raise _missing(f"{self.path} has no cache with the tag {tag or LATEST!r}")

    def entries(self) -> list[dict[str, Any]]:
        """What index.json has. Raises NotFound (CACHE_MISSING), InvalidArgument (BAD_CACHE)."""
        try:
            with self._open(self.path / "index.json", "index.json") as file:
                body = file.read(MAX_DOCUMENT_BYTES + 1)
        except NotFound:
            raise _missing(f"{self.path} holds no cache: there is no index.json") from None
        found = _object(body, "index.json").get("manifests")
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise bad("index.json has no list of manifests")
        return found

    def reached(self, roots: Iterable[str]) -> set[str]:
        """The digests of these manifests (and indexes), and of all that they name. Raises as `document`."""
        found: set[str] = set()
        pending = list(roots)
        while pending:
            digest = pending.pop()
            if digest not in found:
                found.add(digest)
                for each in members(self.document(digest), digest):
                    if each.media_type.endswith(_DOCUMENTS):
                        pending.append(each.digest)
                    else:
                        found.add(each.digest)
        return found

    def document(self, digest: str) -> bytes:
        """A small blob. Raises NotFound (CACHE_MISSING), InvalidArgument (BAD_CACHE)."""
        with self.open(digest) as file:
            body = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise bad(f"{digest} has more than {MAX_DOCUMENT_BYTES} bytes")
        return body

    def open(self, digest: str) -> BinaryIO:
        """A blob's file; its bytes are not checked. Raises as `document`."""
        for directory in (self.path / "blobs", self.path / "blobs" / "sha256"):
            check_directory(directory)
        return self._open(self.place(digest), digest)

    def place(self, digest: str) -> Path:
        """Where a blob is, or would be. Raises InvalidArgument (BAD_CACHE)."""
        return self.path / "blobs" / "sha256" / hex_of(digest)

    def _open(self, path: Path, what: str) -> BinaryIO:
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):  # where there is no O_NOFOLLOW, too
                raise bad(f"{what} is a link")
            fd = os.open(path, READ)
        except FileNotFoundError as error:
            raise _missing(f"{what} is not there") from error
        except OSError as error:
            raise FailedPrecondition(f"can't read {path}: {error.strerror}", reason="FILES_UNREADABLE") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise bad(f"{what} is no file")
        return open(fd, "rb", buffering=0)


def members(body: bytes, what: str) -> list[Part]:
    """What a manifest or an index names. Raises InvalidArgument (BAD_CACHE)."""
    document = _object(body, what)
    found = [document["config"]] if "config" in document else []
    for name in ("layers", "manifests"):
        listed = document.get(name, [])
        if not isinstance(listed, list):
            raise bad(f"its {name} are no list")
        found += listed
    parts = []
    for each in found:
        part, _ = _entry(each)
        if part is None:
            raise bad("its manifest names something without a digest")
        parts.append(part)
    return parts


def check_directory(path: Path) -> None:
    """Raises InvalidArgument (BAD_CACHE) for a link or another thing; none at all is no error."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise bad(f"{path} is no directory")


def hex_of(digest: str) -> str:
    """Raises InvalidArgument (BAD_CACHE) unless it is "sha256:HEX"."""
    match = _DIGEST(digest)
    if match is None:
        raise bad(f"{digest[:80]!r} is no sha256 digest")
    return match[1]


def bad(why: str) -> InvalidArgument:
    """The error for a directory that is no cache as it should be."""
    return InvalidArgument(f"it is broken: {why}", reason="BAD_CACHE")


def _entry(each: Any) -> tuple[Part | None, str]:
    """A descriptor, None where it is none, and the name that it has in an index."""
    if not isinstance(each, dict):
        return None, ""
    kind, digest, size = each.get("mediaType", OCI_MANIFEST), each.get("digest"), each.get("size")
    if not isinstance(kind, str) or not isinstance(digest, str) or not isinstance(size, int) or size < 0:
        return None, ""
    if _DIGEST(digest) is None:
        return None, ""
    annotations = each.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return Part(kind, digest, size), name if isinstance(name, str) else ""


def _object(body: bytes, what: str) -> dict[str, Any]:
    if len(body) > MAX_DOCUMENT_BYTES:
        raise bad(f"{what} has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise bad(f"{what} is no object")
    return found


def _missing(why: str) -> NotFound:
    return NotFound(why, reason="CACHE_MISSING")
