"""What a build's cache consists of: the layers of steps, packed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shoald.build.cacheformat import Record
from shoald.build.packing import Packing
from shoald.build.solver import Build, StepLayer
from shoald.metadata import Metadata
from shoald.oci.manifest import Descriptor


def layers_of(builds: Sequence[Build], results: Sequence[Sequence[StepLayer]], *, all_steps: bool) -> list[StepLayer]:
    """Of all steps, or of the results only; each once."""
    found = [each.made.values() for each in builds] if all_steps else results
    return list({layer.key: layer for each in found for layer in each}.values())


async def packed(md: Metadata, packing: Packing, layers: Sequence[StepLayer], lease: str) -> list[Record]:
    """A record for each layer, whose blob the lease holds."""
    blobs = await asyncio.gather(*(packing.blob(layer, lease) for layer in layers))
    records = []
    for layer, blob in zip(layers, blobs, strict=True):
        entry = md.cache.get(layer.key)
        records.append(
            Record(
                key=layer.key,
                layer=Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size),
                diff_id=blob.diff_id,
                description=entry.description if entry else "",
            )
        )
    return records
