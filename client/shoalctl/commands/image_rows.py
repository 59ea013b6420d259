"""Images as rows, one for each name: Docker's field names, for tables, JSON and templates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shoal.errors import InvalidArgument
from shoal.gopattern import HAS_WILDCARD, pattern_regex
from shoal.reference import Reference
from shoalctl.commands.container_rows import ID_LENGTH, label_text, moment
from shoalctl.render.human import ago, size

if TYPE_CHECKING:
    from shoal.v1 import image_pb2

_NONE = "<none>"


def image_rows(
    host: str,
    item: image_pb2.Image,
    now: datetime,
    *,
    references: Sequence[str] = (),
    full: bool = False,
    once: bool = False,
) -> list[dict[str, Any]]:
    """A row for each tag of the image that suits one of `references` (names or patterns), or for each tag; `once`: at
    most one."""
    names = _names(item, references)
    digest = item.manifest_digest or next((d.partition("@")[2] for d in item.repo_digests), "")
    created = moment(item.created_at)
    untagged = (next((_split(d)[0] for d in item.repo_digests), _NONE), _NONE)
    rows = [
        {
            "Host": host,
            "ID": item.id if full else item.id.removeprefix("sha256:")[:ID_LENGTH],
            "Repository": repository,
            "Tag": tag,
            "Digest": digest or _NONE,
            "CreatedAt": created.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
            "CreatedSince": ago(created, now) if item.created_at.seconds > 0 else "N/A",
            "Size": size(item.size_bytes),
            "SizeBytes": item.size_bytes,
            "Platform": "/".join(filter(None, (item.platform.os, item.platform.architecture, item.platform.variant))),
            "Containers": item.containers,
            "Labels": label_text(item.labels),
        }
        for repository, tag in (names or [untagged])
    ]
    return rows[:1] if once else rows


def selects(item: image_pb2.Image, references: Sequence[str], dangling: bool | None) -> bool:
    """Whether the image has a name that suits one of `references`, where there are some, and is `dangling` or not."""
    if dangling is not None and dangling == bool(item.tags):
        return False
    return not references or bool(_names(item, references))


def familiar(name: str) -> str:
    """A canonical name as people write it; anything else as it is."""
    try:
        return Reference.parse(name).familiar()
    except InvalidArgument:
        return name


def _split(name: str) -> tuple[str, str]:
    try:
        reference = Reference.parse(name)
    except InvalidArgument:
        return name, _NONE
    return reference.familiar_name, reference.tag or _NONE


def _names(item: image_pb2.Image, references: Sequence[str]) -> list[tuple[str, str]]:
    names = map(_split, item.tags)
    return [name for name in names if not references or any(_suits(name, reference) for reference in references)]


def _suits(name: tuple[str, str], wanted: str) -> bool:
    """A pattern is for the name as people write it, with or without the tag, as in docker (FamiliarMatch)."""
    if HAS_WILDCARD.search(wanted):
        regex = pattern_regex(wanted)
        return any(regex.fullmatch(text) for text in (name[0], ":".join(name)))
    try:
        reference = Reference.parse(wanted)
    except InvalidArgument:
        return True
    return name[0] == reference.familiar_name and reference.tag in (None, name[1])
