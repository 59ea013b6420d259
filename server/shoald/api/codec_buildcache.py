"""Proto <-> domain for the build cache."""

from __future__ import annotations

from shoal.v1 import image_pb2 as pb
from shoald.api.checks import invalid
from shoald.api.codec_common import datetime_of, timestamp
from shoald.model.buildcache import CacheKind, CachePrune, CacheRecord

_KINDS = {
    CacheKind.LAYER: pb.BuildCacheRecord.KIND_LAYER,
    CacheKind.MOUNT: pb.BuildCacheRecord.KIND_MOUNT,
    CacheKind.CONTEXT: pb.BuildCacheRecord.KIND_CONTEXT,
}


def cache_record(value: CacheRecord) -> pb.BuildCacheRecord:
    """As a message."""
    return pb.BuildCacheRecord(
        id=value.id,
        kind=_KINDS[value.kind],
        description=value.description,
        size_bytes=value.size_bytes,
        created_at=timestamp(value.created_at),
        last_used_at=timestamp(value.last_used_at),
        use_count=value.use_count,
        shared=value.shared,
        in_use=value.in_use,
    )


def cache_prune(request: pb.ImageServicePruneBuildCacheRequest) -> CachePrune:
    """Raises InvalidArgument (INVALID_FIELD)."""
    if request.keep_bytes < 0:
        raise invalid("keep_bytes", "must be 0 or more")
    since = datetime_of("unused_since", request.unused_since) if request.HasField("unused_since") else None
    return CachePrune(request.all, since, request.keep_bytes)
