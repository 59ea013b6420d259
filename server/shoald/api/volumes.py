"""shoal.v1.VolumeService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.errors import Cancelled, NotFound
from shoal.pki import Role
from shoal.v1 import volume_pb2 as pb
from shoal.v1 import volume_pb2_grpc
from shoald.api.call import require
from shoald.api.checks import invalid, required
from shoald.api.codec_common import labels_of
from shoald.api.codec_system import volume
from shoald.api.privileges import volume_checked
from shoald.api.streams import Context, closing
from shoald.engine.ports import Engine
from shoald.engine.volume_ports import VolumeFilter

_MAX_CHUNK_BYTES = 1 << 20


class VolumeService(volume_pb2_grpc.VolumeServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def List(self, request: pb.VolumeServiceListRequest, context: Context) -> None:  # type: ignore[override]
        wanted = VolumeFilter(labels_of(request.labels), request.name, request.dangling)
        for each in self._engine.volumes.list(wanted):
            try:
                path = self._engine.volumes.path(each.name)
            except NotFound:
                continue  # removed since the list was made
            await context.write(pb.VolumeServiceListResponse(volume=volume(each, path)))

    async def Create(self, request: pb.VolumeServiceCreateRequest, context: Context) -> pb.VolumeServiceCreateResponse:
        if request.options:
            require(Role.ADMIN, "a volume with driver options")
        if "" in request.labels:
            raise invalid("labels", "a label has no key")
        made = await self._engine.volumes.create(request.name, dict(request.labels), dict(request.options))
        return pb.VolumeServiceCreateResponse(volume=volume(made, self._engine.volumes.path(made.name)))

    async def Inspect(
        self, request: pb.VolumeServiceInspectRequest, context: Context
    ) -> pb.VolumeServiceInspectResponse:
        found = await self._engine.volumes.inspect(required("name", request.name))
        return pb.VolumeServiceInspectResponse(
            volume=volume(found.volume, found.mountpoint), containers=found.containers, size_bytes=found.size_bytes
        )

    async def Prune(self, request: pb.VolumeServicePruneRequest, context: Context) -> pb.VolumeServicePruneResponse:
        names, freed = await self._engine.volumes.prune(request.all, labels_of(request.labels))
        return pb.VolumeServicePruneResponse(names=names, freed_bytes=freed)

    async def Export(self, request: pb.VolumeServiceExportRequest, context: Context) -> None:  # type: ignore[override]
        async with closing(
            self._engine.volumes.export(volume_checked(self._engine, required("name", request.name)))
        ) as chunks:
            async for chunk in chunks:
                await context.write(pb.VolumeServiceExportResponse(chunk=chunk))

    async def Import(
        self, requests: AsyncIterator[pb.VolumeServiceImportRequest], context: Context
    ) -> pb.VolumeServiceImportResponse:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "name":
            raise invalid("message", "the first one must be name")
        name = volume_checked(self._engine, required("name", first.name))
        await self._engine.volumes.load(name, _chunks(requests, context))
        return pb.VolumeServiceImportResponse()

    async def Remove(self, request: pb.VolumeServiceRemoveRequest, context: Context) -> pb.VolumeServiceRemoveResponse:
        await self._engine.volumes.remove(required("name", request.name))
        return pb.VolumeServiceRemoveResponse()


async def _chunks(requests: AsyncIterator[pb.VolumeServiceImportRequest], context: Context) -> AsyncIterator[bytes]:
    async for message in requests:
        if message.WhichOneof("message") != "chunk":
            raise invalid("message", "only chunk may follow name")
        if len(message.chunk) > _MAX_CHUNK_BYTES:
            raise invalid("chunk", f"has {len(message.chunk)} bytes, more than {_MAX_CHUNK_BYTES}")
        if message.chunk:
            yield message.chunk
    if context.cancelled():
        raise Cancelled("the archive ended before it was complete", reason="TRUNCATED")
