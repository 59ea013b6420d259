"""Builds that a host works at, and what they made: a function for each call of the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from shoalctl.connect.failure import LinkLost
from shoalctl.connect.link import CALL_TIMEOUT

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient


async def list_builds(host: HostClient) -> list[image_pb2.BuildSummary]:
    """Those that go on, and those that ended in the last ten minutes; the oldest first."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServiceListBuildsRequest()
    while True:
        try:
            return [item.build async for item in host.link.stream(_list, request, timeout=CALL_TIMEOUT)]
        except LinkLost:
            await host.link.reconnect()


async def events_so_far(host: HostClient, request_id: str) -> AsyncIterator[image_pb2.BuildEvent]:
    """What a build has told until now. Raises what it failed with."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServiceFollowBuildRequest(request_id=request_id, no_follow=True)
    async for message in host.link.stream(_follow, request):
        if message.HasField("event"):
            yield message.event


async def export_image(host: HostClient, name: str) -> AsyncGenerator[bytes, None]:
    """An image's files as a tar; LinkLost when the connection fails in its middle."""
    from shoal.v1 import image_pb2

    async for message in host.link.stream(_export, image_pb2.ImageServiceExportRequest(name=name)):
        yield message.chunk


def _export(channel: Any) -> Any:
    from shoal.v1 import image_pb2_grpc

    return image_pb2_grpc.ImageServiceStub(channel).Export


def _list(channel: Any) -> Any:
    from shoal.v1 import image_pb2_grpc

    return image_pb2_grpc.ImageServiceStub(channel).ListBuilds


def _follow(channel: Any) -> Any:
    from shoal.v1 import image_pb2_grpc

    return image_pb2_grpc.ImageServiceStub(channel).FollowBuild
