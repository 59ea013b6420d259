"""From the result of the target stage to an image: layers are packed, configuration and history written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from shoal.errors import DataLoss, InvalidArgument
from shoald.build.cacheformat import INLINE
from shoald.build.packing import Packing
from shoald.build.solver import Build, StageResult, StepLayer
from shoald.dockerfile.config import HistoryEntry
from shoald.images.assemble import Assembler, BuiltLayer
from shoald.metadata.store import Metadata
from shoald.model.build import BuildRequest
from shoald.model.image import Image
from shoald.model.snapshot import Snapshot

EPOCH = "SOURCE_DATE_EPOCH"


class Finishing:
    """Makes images of what was solved."""

    def __init__(self, md: Metadata, packing: Packing, assembler: Assembler) -> None:
        self._md = md
        self._packing = packing
        self._assembler = assembler

    async def image(self, build: Build, result: StageResult, tags: Sequence[str]) -> Image:
        """Blobs, configuration and row. Raises DataLoss (SNAPSHOT_LOST), InvalidArgument (INVALID_BUILD_ARG)."""
        blobs = await asyncio.gather(*(self._packing.blob(layer, build.lease) for layer in result.layers))
        config = result.state.image_config()
        platform = build.plan.platform_of(build.plan.target)
        created, history = self._history(result, epoch(build.request))
        document: dict[str, Any] = {
            "created": created,
            "author": config.author,
            "architecture": platform.architecture,
            "variant": platform.variant,
            "os": platform.os,
            "config": config.to_oci(),
            "history": history,
        }
        below = self._assembler.layers_of(result.base_image) if result.base_image else []
        if build.request.inline_cache:
            document[INLINE] = [*("" for _ in below), *(layer.key for layer in result.layers)]
        own = [BuiltLayer(blob, self._snapshot(layer)) for layer, blob in zip(result.layers, blobs, strict=True)]
        document["rootfs"] = {"type": "layers", "diff_ids": [layer.blob.diff_id for layer in (*below, *own)]}
        body = json.dumps({key: value for key, value in document.items() if value != ""}, separators=(",", ":"))
        return await self._assembler.create_image(body.encode(), [*below, *own], tags)

    def _snapshot(self, layer: StepLayer) -> Snapshot:
        snapshot = self._md.snapshots.get(layer.snapshot_id)
        if snapshot is None:
            raise DataLoss(
                f"snapshot {layer.snapshot_id} is gone", reason="SNAPSHOT_LOST", hint="build again with --no-cache"
            )
        return snapshot

    def _history(self, result: StageResult, epoch: str) -> tuple[str, list[dict[str, Any]]]:
        """Times follow from the layers, as BuildKit has them: an unchanged rebuild gives the same image. With `epoch`
        that is the time of all that this build adds."""
        base = result.base_image.config if result.base_image else None
        history = [msgspec.to_builtins(entry) for entry in (base.history or [])] if base else []
        if epoch:
            own = [{"created": epoch, **HistoryEntry.to_oci(entry)} for entry in result.state.history]
            return epoch, [*history, *own]
        time_ = base.created if base else None
        times = iter([self._made_at(layer) for layer in result.layers])
        first = None
        for entry in result.state.history:
            if not entry.empty_layer:
                time_ = next(times, time_)
                first = first or time_
        fallback = time_ or _text(datetime.now(UTC))
        time_ = (base.created if base else None) or first or fallback
        times = iter([self._made_at(layer) for layer in result.layers])
        for entry in result.state.history:
            if not entry.empty_layer:
                time_ = next(times, time_)
            history.append({"created": time_, **HistoryEntry.to_oci(entry)})
        return time_ or fallback, history

    def _made_at(self, layer: StepLayer) -> str:
        entry = self._md.cache.get(layer.key)
        return _text(entry.created_at if entry else datetime.now(UTC))


def epoch(request: BuildRequest) -> str:
    """The time of SOURCE_DATE_EPOCH, or "". Raises InvalidArgument (INVALID_BUILD_ARG).

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    text = request.build_args.get(EPOCH, "")
    if not text:
        return ""
    try:
        return _text(datetime.fromtimestamp(int(text), UTC))
    except (ValueError, OverflowError, OSError):
        raise InvalidArgument(
            f"build argument {EPOCH}={text[:80]!r} is no number of seconds", reason="INVALID_BUILD_ARG"
        ) from None


def _text(time_: datetime) -> str:
    return time_.astimezone(UTC).isoformat().replace("+00:00", "Z")
