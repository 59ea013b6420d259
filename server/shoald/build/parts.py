"""The parts of a COPY or ADD in the order of its sources: files to make, and archives to unpack between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from msgspec import Struct

from shoald.build.archives import is_archive
from shoald.build.selection import CopyItem
from shoald.dockerfile.steps import CopyStep, UrlSource


class Archive(Struct, frozen=True):
    """An archive at `source` in the source root, to be unpacked at `dest`; `content` is its digest."""

    source: str
    dest: str
    content: str


Part = CopyItem | Archive


class Piece(Struct, frozen=True):
    """What neighbouring sources of one kind make. `root`: where fetched files are; None: the root of the step's own."""

    parts: Sequence[Part]
    root: Path | None = None


def in_order(step: CopyStep) -> list[CopyStep]:
    """The step as several, each of which fetches all of its sources, or none. Here-documents come last, as in
    BuildKit."""
    steps = [
        replace(step, sources=tuple(sources), files=())
        for _, sources in groupby(step.sources, lambda source: isinstance(source, UrlSource))
    ]
    if steps and not isinstance(steps[-1].sources[0], UrlSource):
        steps[-1] = replace(steps[-1], files=step.files)
    elif step.files or not steps:
        steps.append(replace(step, sources=()))
    return steps


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
