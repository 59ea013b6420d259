"""ContainerService: Create, Restart, Pause, Unpause, Rename, Update, Prune."""

from __future__ import annotations

from typing import Any

from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from shoald.api.checks import invalid, operation_id, optional_id, required
from shoald.api.codec_common import credentials_of, datetime_of, labels_of, seconds_of
from shoald.api.codec_container import container, pull_policy_of
from shoald.api.codec_spec import policy_of
from shoald.api.privileges import requested_spec
from shoald.api.streams import Context
from shoald.engine.ports import Engine
from shoald.model.change import ContainerChange

_LIMITS = (
    "memory_bytes", "memory_swap_bytes", "memory_reservation_bytes", "nano_cpus", "cpu_shares", "cpu_period",
    "cpu_quota", "cpuset_cpus", "cpuset_mems", "pids_limit", "blkio_weight",
)  # fmt: skip


class ControlMethods(container_pb2_grpc.ContainerServiceServicer):
    """Changes of containers."""

    _engine: Engine

    async def Create(
        self, request: pb.ContainerServiceCreateRequest, context: Context
    ) -> pb.ContainerServiceCreateResponse:
        request_id = operation_id(request.request_id)
        spec = await requested_spec(self._engine, request.spec)
        made, warnings = await self._engine.create(
            request_id, spec, pull_policy_of(request.pull_policy), credentials_of(request.credentials)
        )
        return pb.ContainerServiceCreateResponse(container=container(made), warnings=warnings)

    async def Restart(
        self, request: pb.ContainerServiceRestartRequest, context: Context
    ) -> pb.ContainerServiceRestartResponse:
        timeout = seconds_of("timeout", request.timeout) if request.HasField("timeout") else None
        found = await self._engine.restart(
            required("name", request.name), timeout, request.signal, optional_id(request.request_id)
        )
        return pb.ContainerServiceRestartResponse(container=container(found))

    async def Pause(
        self, request: pb.ContainerServicePauseRequest, context: Context
    ) -> pb.ContainerServicePauseResponse:
        await self._engine.control.pause(required("name", request.name), optional_id(request.request_id))
        return pb.ContainerServicePauseResponse()

    async def Unpause(
        self, request: pb.ContainerServiceUnpauseRequest, context: Context
    ) -> pb.ContainerServiceUnpauseResponse:
        await self._engine.control.unpause(required("name", request.name), optional_id(request.request_id))
        return pb.ContainerServiceUnpauseResponse()

    async def Rename(
        self, request: pb.ContainerServiceRenameRequest, context: Context
    ) -> pb.ContainerServiceRenameResponse:
        name, new_name = required("name", request.name), required("new_name", request.new_name)
        await self._engine.control.rename(name, new_name, optional_id(request.request_id))
        return pb.ContainerServiceRenameResponse()

    async def Update(
        self, request: pb.ContainerServiceUpdateRequest, context: Context
    ) -> pb.ContainerServiceUpdateResponse:
        change = change_of(request)
        updated, warnings = await self._engine.control.update(
            required("name", request.name), change, optional_id(request.request_id)
        )
        return pb.ContainerServiceUpdateResponse(container=container(updated), warnings=warnings)

    async def Prune(
        self, request: pb.ContainerServicePruneRequest, context: Context
    ) -> pb.ContainerServicePruneResponse:
        until = datetime_of("until", request.until) if request.HasField("until") else None
        ids, freed = await self._engine.control.prune(labels_of(request.labels), until)
        return pb.ContainerServicePruneResponse(ids=ids, freed_bytes=freed)


def change_of(request: pb.ContainerServiceUpdateRequest) -> ContainerChange:
    """What is to change. Raises InvalidArgument (INVALID_FIELD)."""
    given: dict[str, Any] = {name: getattr(request, name) for name in _LIMITS if request.HasField(name)}  # type: ignore[arg-type]
    for name, value in given.items():
        if isinstance(value, int) and value < -1:
            raise invalid(name, "must be -1 (no limit) or more")
    if request.HasField("restart_policy"):
        given["restart_policy"] = policy_of(request.restart_policy)
    if not given:
        raise invalid("request", "changes nothing", hint="name at least one limit or a restart policy")
    return ContainerChange(**given)
