"""shoal.v1.VolumeService."""

from __future__ import annotations

from shoal.errors import NotFound
from shoal.v1 import volume_pb2 as pb
from shoal.v1 import volume_pb2_grpc
from shoald.api.checks import required
from shoald.api.codec_system import volume
from shoald.api.streams import Context
from shoald.engine.ports import Engine


class VolumeService(volume_pb2_grpc.VolumeServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def List(self, request: pb.VolumeServiceListRequest, context: Context) -> None:  # type: ignore[override]
        for each in await self._engine.list_volumes():
            try:
                path = await self._engine.volume_path(each.name)
            except NotFound:
                continue  # removed since the list was made
            await context.write(pb.VolumeServiceListResponse(volume=volume(each, path)))

    async def Remove(self, request: pb.VolumeServiceRemoveRequest, context: Context) -> pb.VolumeServiceRemoveResponse:
        await self._engine.remove_volume(required("name", request.name))
        return pb.VolumeServiceRemoveResponse()
