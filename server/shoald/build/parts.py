"""The parts of a COPY or ADD in the order of its sources: files to make, and archives to unpack between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from shoald.build.archives import is_archive
from shoald.build.selection import CopyItem


class Archive(Struct, frozen=True):
    """An archive at `source` in the source root, to be unpacked at `dest`; `content` is its digest."""

    source: str
    dest: str
    content: str


Part = CopyItem | Archive


async def with_archives(root: Path, items: Sequence[CopyItem], dest: str, *, unpack: bool) -> list[Part]:
    """The items, archives among them told apart. Only sources themselves are unpacked, not archives inside of a
    directory."""
    parts: list[Part] = []
    for item in items:
        named = unpack and item.named and item.kind == "f"
        if named and await asyncio.to_thread(is_archive, root, item.source):
            parts.append(Archive(item.source, dest, item.content))
        else:
            parts.append(item)
    return parts


def told(parts: Sequence[Part]) -> tuple[list[CopyItem], list[str]]:
    """What keys are made of: the files, and the archives with their places among these."""
    files = [part for part in parts if isinstance(part, CopyItem)]
    return files, [f"{at}:{part.content}" for at, part in enumerate(parts) if isinstance(part, Archive)]


def runs(parts: Sequence[Part]) -> Iterator[Archive | list[CopyItem]]:
    """Archives, and the files between them together."""
    files: list[CopyItem] = []
    for part in parts:
        if isinstance(part, CopyItem):
            files.append(part)
            continue
        if files:
            yield files
        files = []
        yield part
    if files:
        yield files
