"""ContainerService: Top, Stats, Changes, Commit."""

from __future__ import annotations

from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from shoald.api.checks import operation_id, required
from shoald.api.codec_common import seconds_of, timestamp
from shoald.api.privileges import entered
from shoald.api.streams import Context, send_all
from shoald.engine.ports import Engine
from shoald.model.insight import Change, ChangeKind, StatsSample

_KINDS = {
    ChangeKind.MODIFIED: pb.ContainerServiceChangesResponse.KIND_MODIFIED,
    ChangeKind.ADDED: pb.ContainerServiceChangesResponse.KIND_ADDED,
    ChangeKind.DELETED: pb.ContainerServiceChangesResponse.KIND_DELETED,
}


class InsightMethods(container_pb2_grpc.ContainerServiceServicer):
    """What goes on in containers."""

    _engine: Engine

    async def Top(self, request: pb.ContainerServiceTopRequest, context: Context) -> pb.ContainerServiceTopResponse:
        table = await self._engine.insight.top(required("name", request.name), list(request.ps_arguments))
        rows = [pb.ContainerServiceTopResponse.Process(fields=row) for row in table.rows]
        return pb.ContainerServiceTopResponse(titles=table.titles, processes=rows)

    async def Stats(self, request: pb.ContainerServiceStatsRequest, context: Context) -> None:  # type: ignore[override]
        interval = seconds_of("interval", request.interval) if request.HasField("interval") else 1.0
        samples = self._engine.insight.stats(list(request.names), request.one_shot, interval)
        await send_all(context, samples, _samples)

    async def Changes(  # type: ignore[override]
        self, request: pb.ContainerServiceChangesRequest, context: Context
    ) -> None:
        await send_all(context, self._engine.insight.changes(required("name", request.name)), _changes)

    async def Commit(
        self, request: pb.ContainerServiceCommitRequest, context: Context
    ) -> pb.ContainerServiceCommitResponse:
        image = await self._engine.insight.commit(
            operation_id(request.request_id),
            await entered(self._engine, required("name", request.name), "files of"),
            request.reference,
            request.author,
            request.message,
            list(request.changes),
            not request.no_pause,
        )
        return pb.ContainerServiceCommitResponse(image_id=image.id)


def _samples(samples: list[StatsSample]) -> pb.ContainerServiceStatsResponse:
    return pb.ContainerServiceStatsResponse(samples=[_sample(each) for each in samples])


def _sample(value: StatsSample) -> pb.ContainerServiceStatsResponse.Sample:
    return pb.ContainerServiceStatsResponse.Sample(
        id=value.id,
        name=value.name,
        time=timestamp(value.time),
        cpu_ns=value.cpu_ns,
        cpu_fraction=value.cpu_fraction,
        memory_bytes=value.memory_bytes,
        memory_limit_bytes=value.memory_limit_bytes,
        pids=value.pids,
        pids_limit=value.pids_limit,
        network_received_bytes=value.network_received_bytes,
        network_sent_bytes=value.network_sent_bytes,
        block_read_bytes=value.block_read_bytes,
        block_written_bytes=value.block_written_bytes,
        throttled_ns=value.throttled_ns,
    )


def _changes(changes: list[Change]) -> pb.ContainerServiceChangesResponse:
    rows = [pb.ContainerServiceChangesResponse.Change(kind=_KINDS[each.kind], path=each.path) for each in changes]
    return pb.ContainerServiceChangesResponse(changes=rows)
