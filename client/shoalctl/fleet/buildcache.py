"""The build cache of one host: a function for each call of the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shoalctl.connect.failure import LinkLost
from shoalctl.connect.link import CALL_TIMEOUT

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient


async def list_build_cache(host: HostClient) -> list[image_pb2.BuildCacheRecord]:
    """The least recently used first."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServiceListBuildCacheRequest()
    while True:
        try:
            stream = host.link.stream(_images("ListBuildCache"), request, timeout=CALL_TIMEOUT)
            return [item.record async for item in stream]
        except LinkLost:
            await host.link.reconnect()


async def prune_build_cache(
    host: HostClient, *, everything: bool = False, until: datetime | None = None, keep_bytes: int = 0
) -> image_pb2.ImageServicePruneBuildCacheResponse:
    """Delete what no build at work uses, and no image unless `everything`."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServicePruneBuildCacheRequest(all=everything, keep_bytes=keep_bytes)
    if until is not None:
        request.unused_since.FromDatetime(until)
    return await host.link.unary(_images("PruneBuildCache"), request, timeout=None, repeat=False)  # type: ignore[no-any-return]


def _images(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import image_pb2_grpc

        return getattr(image_pb2_grpc.ImageServiceStub(channel), name)

    return pick
