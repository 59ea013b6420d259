"""Volumes of one host: a function for each call of the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost
from shoalctl.connect.link import CALL_TIMEOUT
from shoalctl.fleet.feeding import feed

if TYPE_CHECKING:
    from shoal.v1 import volume_pb2
    from shoalctl.fleet.host import HostClient

CHUNK = 512 << 10
_LONG = 120.0


async def list_volumes(
    host: HostClient, request: volume_pb2.VolumeServiceListRequest | None = None
) -> list[volume_pb2.Volume]:
    """By name."""
    from shoal.v1 import volume_pb2

    ask = request or volume_pb2.VolumeServiceListRequest()
    while True:
        try:
            return [item.volume async for item in host.link.stream(_volumes("List"), ask, timeout=CALL_TIMEOUT)]
        except LinkLost:
            await host.link.reconnect()


async def list_used_volumes(host: HostClient, request: volume_pb2.VolumeServiceListRequest) -> list[volume_pb2.Volume]:
    """By name, those that a container names: all but the dangling ones, as the request knows only these."""
    from shoal.v1 import volume_pb2

    unused = volume_pb2.VolumeServiceListRequest(labels=request.labels, name=request.name, dangling=True)
    names = {volume.name for volume in await list_volumes(host, unused)}
    return [volume for volume in await list_volumes(host, request) if volume.name not in names]


async def create_volume(
    host: HostClient, name: str, *, labels: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
) -> volume_pb2.Volume:
    """Make a volume; one that is there with the same options is returned. With a name a repeat is safe."""
    from shoal.v1 import volume_pb2

    request = volume_pb2.VolumeServiceCreateRequest(name=name, labels=labels, options=options)
    answer = await host.link.unary(_volumes("Create"), request, repeat=bool(name))
    return answer.volume  # type: ignore[no-any-return]


async def inspect_volume(host: HostClient, name: str) -> volume_pb2.VolumeServiceInspectResponse:
    """All that is known."""
    from shoal.v1 import volume_pb2

    return await host.link.unary(  # type: ignore[no-any-return]
        _volumes("Inspect"), volume_pb2.VolumeServiceInspectRequest(name=name), timeout=_LONG
    )


async def prune_volumes(
    host: HostClient, *, everything: bool = False, labels: Sequence[tuple[str, str]] = ()
) -> volume_pb2.VolumeServicePruneResponse:
    """Remove what no container names: anonymous volumes, or all."""
    from shoal.v1 import types_pb2, volume_pb2

    selectors = [types_pb2.LabelSelector(key=key, value=value) for key, value in labels]
    request = volume_pb2.VolumeServicePruneRequest(all=everything, labels=selectors)
    return await host.link.unary(_volumes("Prune"), request, timeout=None, repeat=False)  # type: ignore[no-any-return]


async def export_volume(host: HostClient, name: str) -> AsyncGenerator[bytes, None]:
    """The content as a tar; LinkLost when the connection fails in its middle."""
    from shoal.v1 import volume_pb2

    request = volume_pb2.VolumeServiceExportRequest(name=name)
    async for message in host.link.stream(_volumes("Export"), request):
        yield message.chunk


async def import_volume(host: HostClient, name: str, chunks: Iterator[bytes]) -> None:
    """Unpack a tar (plain, gzip or zstd) into a volume. A transfer that breaks off changes nothing there."""
    from shoal.v1 import volume_pb2, volume_pb2_grpc

    message = volume_pb2.VolumeServiceImportRequest
    channel = await host.link.channel()
    call = volume_pb2_grpc.VolumeServiceStub(channel).Import()
    ending = Ending(call)
    try:
        await call.write(message(name=name))
        await feed(call, chunks, lambda chunk: message(chunk=chunk))
        await call.done_writing()
        await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise await ending.error() from error
    finally:
        call.cancel()
    host.link.answered()


def _volumes(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import volume_pb2_grpc

        return getattr(volume_pb2_grpc.VolumeServiceStub(channel), name)

    return pick
