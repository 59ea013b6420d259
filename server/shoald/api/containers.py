"""shoal.v1.ContainerService, but for Attach."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from shoald.api.attach import attach
from shoald.api.call import require
from shoald.api.checks import operation_id, optional_id, required
from shoald.api.codec_common import credentials_of, seconds_of
from shoald.api.codec_container import (
    condition_of,
    container,
    details,
    filter_of,
    log_batch,
    log_query_of,
    pull_policy_of,
)
from shoald.api.codec_spec import spec_of
from shoald.api.privileges import needs_admin
from shoald.api.streams import Context, send_all
from shoald.engine.ports import Engine


class ContainerService(container_pb2_grpc.ContainerServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Run(self, request: pb.ContainerServiceRunRequest, context: Context) -> pb.ContainerServiceRunResponse:
        request_id = operation_id(request.request_id)
        spec = spec_of(request.spec)
        if (asked := needs_admin(spec)) is not None:
            require(Role.ADMIN, asked)
        made, warnings = await self._engine.run(
            request_id,
            spec,
            pull_policy_of(request.pull_policy),
            credentials_of(request.credentials),
            request.keep_on_failure,
        )
        return pb.ContainerServiceRunResponse(container=container(made), warnings=warnings)

    async def Start(
        self, request: pb.ContainerServiceStartRequest, context: Context
    ) -> pb.ContainerServiceStartResponse:
        found = await self._engine.start(required("name", request.name), optional_id(request.request_id))
        return pb.ContainerServiceStartResponse(container=container(found))

    async def Stop(self, request: pb.ContainerServiceStopRequest, context: Context) -> pb.ContainerServiceStopResponse:
        timeout = seconds_of("timeout", request.timeout) if request.HasField("timeout") else None
        found = await self._engine.stop(
            required("name", request.name), timeout, request.signal, optional_id(request.request_id)
        )
        return pb.ContainerServiceStopResponse(container=container(found))

    async def Kill(self, request: pb.ContainerServiceKillRequest, context: Context) -> pb.ContainerServiceKillResponse:
        await self._engine.kill(required("name", request.name), request.signal, optional_id(request.request_id))
        return pb.ContainerServiceKillResponse()

    async def Wait(self, request: pb.ContainerServiceWaitRequest, context: Context) -> pb.ContainerServiceWaitResponse:
        ended = await self._engine.wait(required("name", request.name), condition_of(request.condition))
        return pb.ContainerServiceWaitResponse(
            exit_code=ended.exit_code, oom_killed=ended.oom_killed, error=ended.error
        )

    async def Remove(
        self, request: pb.ContainerServiceRemoveRequest, context: Context
    ) -> pb.ContainerServiceRemoveResponse:
        removed = await self._engine.remove(
            required("name", request.name), request.force, request.volumes, optional_id(request.request_id)
        )
        return pb.ContainerServiceRemoveResponse(id=removed)

    async def List(self, request: pb.ContainerServiceListRequest, context: Context) -> None:  # type: ignore[override]
        for each in await self._engine.list_containers(filter_of(request)):
            await context.write(pb.ContainerServiceListResponse(container=container(each)))

    async def Inspect(
        self, request: pb.ContainerServiceInspectRequest, context: Context
    ) -> pb.ContainerServiceInspectResponse:
        return details(await self._engine.inspect_container(required("name", request.name)))

    async def Logs(self, request: pb.ContainerServiceLogsRequest, context: Context) -> None:  # type: ignore[override]
        batches = self._engine.logs(required("name", request.name), log_query_of(request))
        await send_all(context, batches, log_batch)

    async def Attach(self, requests: AsyncIterator[pb.ContainerServiceAttachRequest], context: Context) -> None:  # type: ignore[override]
        await attach(self._engine, requests, context)
