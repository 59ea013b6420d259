"""How a build's cache is written down, so that another host can start with it; pure.

As an artifact of its own (image-spec `manifest.md`, "Guidelines for Artifact Usage"): a manifest whose configuration
is a `Document`, and whose layers are the blobs that it speaks of. Or inline: in the configuration of an image, the keys
of its layers under the name INLINE, "" for those that come from its base.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shoal.errors import InvalidArgument
from shoald.oci.manifest import Descriptor, Manifest, encode
from shoald.oci.mediatypes import is_layer

MEDIA_TYPE = "application/vnd.shoal.buildcache.v1+json"
INLINE = "vnd.shoal.buildcache.v1"
MAX_RECORDS = 10_000


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step's layer by the step's content key."""

    key: str
    layer: Descriptor
    diff_id: str
    description: str = ""
    """The step as people know it."""


class Document(msgspec.Struct, frozen=True):
    """A whole cache."""

    records: list[Record]


class _Keys(msgspec.Struct, frozen=True):
    keys: list[str] = msgspec.field(default_factory=list, name=INLINE)


def written(records: Sequence[Record]) -> tuple[bytes, bytes]:
    """The configuration and the manifest of an artifact; the same records give the same bytes."""
    ordered = sorted(records, key=lambda record: record.key)
    config = encode(Document(ordered))
    layers = {record.layer.digest: record.layer for record in ordered}
    manifest = Manifest(
        schema_version=2,
        media_type="application/vnd.oci.image.manifest.v1+json",
        artifact_type=MEDIA_TYPE,
        config=Descriptor.of(config, MEDIA_TYPE),
        layers=list(layers.values()),
    )
    return config, encode(manifest)


def read(config: bytes, manifest: Manifest) -> list[Record]:
    """The records of an artifact. Raises InvalidArgument (BAD_CACHE)."""
    try:
        records = msgspec.json.decode(config, type=Document).records
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _bad(str(error)) from error
    held = {layer.digest: layer for layer in manifest.layers}
    if len(records) > MAX_RECORDS:
        raise _bad(f"it has {len(records)} records")
    for record in records:
        if held.get(record.layer.digest) != record.layer or not is_layer(record.layer.media_type):
            raise _bad(f"layer {record.layer.digest[:80]} is not one of its manifest's")
    return records


def read_inline(config: bytes, manifest: Manifest, diff_ids: Sequence[str]) -> list[Record]:
    """The records in an image's configuration; none where it has none. Raises InvalidArgument (BAD_CACHE)."""
    try:
        keys = msgspec.json.decode(config, type=_Keys).keys
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _bad(str(error)) from error
    if keys and not len(keys) == len(manifest.layers) == len(diff_ids):
        raise _bad("it has not as many keys as layers")
    return [
        Record(key=key, layer=layer, diff_id=diff_id)
        for key, layer, diff_id in zip(keys, manifest.layers, diff_ids, strict=False)
        if key
    ]


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument(f"the build cache can't be used: {why[:300]}", reason="BAD_CACHE")
