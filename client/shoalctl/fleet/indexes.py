"""Image indexes of one host: a function for each call of the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient


async def create_index(
    host: HostClient, images: Sequence[str], tags: Sequence[str]
) -> image_pb2.ImageServiceCreateIndexResponse:
    """An index of these images (names, ids, digests of indexes); the tags mean it."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServiceCreateIndexRequest(images=images, tags=tags)
    return await host.link.unary(_images("CreateIndex"), request)  # type: ignore[no-any-return]


async def inspect_index(host: HostClient, name: str) -> image_pb2.ImageServiceInspectIndexResponse:
    """An index by a tag or its digest. Raises NotFound (INDEX_NOT_FOUND)."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServiceInspectIndexRequest(name=name)
    return await host.link.unary(_images("InspectIndex"), request)  # type: ignore[no-any-return]


def _images(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import image_pb2_grpc

        return getattr(image_pb2_grpc.ImageServiceStub(channel), name)

    return pick
