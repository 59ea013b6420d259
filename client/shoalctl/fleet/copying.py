"""Files of one host's containers: a function for each call of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc

from shoal.errors import NotFound
from shoalctl.connect.ending import Ending
from shoalctl.fleet.feeding import feed

if TYPE_CHECKING:
    from shoal.v1 import container_pb2
    from shoalctl.fleet.host import HostClient


async def stat_path(host: HostClient, name: str, path: str) -> container_pb2.PathStat | None:
    """What is at a path of a container, None for nothing. Raises NotFound (CONTAINER_NOT_FOUND)."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceStatPathRequest(name=name, path=path)
    try:
        answer = await host.link.unary(_containers("StatPath"), request)
    except NotFound as error:
        if error.reason != "PATH_NOT_FOUND":
            raise
        return None
    return answer.stat  # type: ignore[no-any-return]


async def copy_out(
    host: HostClient, name: str, path: str, *, follow: bool = False
) -> AsyncGenerator[container_pb2.PathStat | bytes, None]:
    """What is at the path, then a tar of it in pieces; LinkLost when the connection fails in its middle."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceCopyOutRequest(name=name, path=path, follow_link=follow)
    async for message in host.link.stream(_containers("CopyOut"), request):
        yield message.stat if message.HasField("stat") else message.chunk


async def copy_in(host: HostClient, name: str, path: str, chunks: Iterator[bytes], *, keep_owner: bool = False) -> None:
    """Unpack a tar in a directory of a container."""
    from shoal.v1 import container_pb2, container_pb2_grpc

    message = container_pb2.ContainerServiceCopyInRequest
    channel = await host.link.channel()
    call = container_pb2_grpc.ContainerServiceStub(channel).CopyIn()
    ending = Ending(call)
    try:
        start = message.Start(name=name, path=path, keep_owner=keep_owner, no_overwrite_dir_non_dir=True)
        await call.write(message(start=start))
        await feed(call, chunks, lambda chunk: message(chunk=chunk))
        await call.write(message(end=message.End()))
        await call.done_writing()
        await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise await ending.error() from error
    finally:
        call.cancel()
    host.link.answered()


async def export_container(host: HostClient, name: str) -> AsyncGenerator[bytes, None]:
    """The container's root file system as a tar; LinkLost when the connection fails in its middle."""
    from shoal.v1 import container_pb2

    request = container_pb2.ContainerServiceExportRequest(name=name)
    async for message in host.link.stream(_containers("Export"), request):
        yield message.chunk


def _containers(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import container_pb2_grpc

        return getattr(container_pb2_grpc.ContainerServiceStub(channel), name)

    return pick
