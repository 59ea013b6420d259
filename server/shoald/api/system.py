"""shoal.v1.SystemService."""

from __future__ import annotations

from datetime import UTC, datetime

from shoal.v1 import system_pb2 as pb
from shoal.v1 import system_pb2_grpc
from shoald.api.call import caller
from shoald.api.checks import operation_id, required
from shoald.api.codec_common import timestamp
from shoald.api.codec_system import event, event_filter_of, info, version
from shoald.api.streams import Context, send_all
from shoald.engine.ports import Engine
from shoald.model.event import Event


class SystemService(system_pb2_grpc.SystemServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Ping(self, request: pb.SystemServicePingRequest, context: Context) -> pb.SystemServicePingResponse:
        return pb.SystemServicePingResponse(time=timestamp(datetime.now(UTC)))

    async def Version(
        self, request: pb.SystemServiceVersionRequest, context: Context
    ) -> pb.SystemServiceVersionResponse:
        return version(await self._engine.version())

    async def Info(self, request: pb.SystemServiceInfoRequest, context: Context) -> pb.SystemServiceInfoResponse:
        return info(await self._engine.info(), caller())

    async def Events(self, request: pb.SystemServiceEventsRequest, context: Context) -> None:  # type: ignore[override]
        await send_all(context, self._engine.events(event_filter_of(request)), _event)

    async def Cancel(self, request: pb.SystemServiceCancelRequest, context: Context) -> pb.SystemServiceCancelResponse:
        cancelled = await self._engine.cancel(operation_id(required("request_id", request.request_id)))
        return pb.SystemServiceCancelResponse(cancelled=cancelled)


def _event(value: Event) -> pb.SystemServiceEventsResponse:
    return pb.SystemServiceEventsResponse(event=event(value))
