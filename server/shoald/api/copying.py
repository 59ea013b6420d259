"""ContainerService: CopyIn, CopyOut, StatPath, Export."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.errors import Cancelled
from shoal.v1 import container_pb2 as pb
from shoal.v1 import container_pb2_grpc
from shoald.api.checks import invalid, required
from shoald.api.gate import note
from shoald.api.privileges import entered
from shoald.api.streams import Context, send_all
from shoald.engine.ports import Engine, PathStat

_MAX_CHUNK = 1 << 20


class CopyMethods(container_pb2_grpc.ContainerServiceServicer):
    """Files of containers."""

    _engine: Engine

    async def StatPath(
        self, request: pb.ContainerServiceStatPathRequest, context: Context
    ) -> pb.ContainerServiceStatPathResponse:
        name = await entered(self._engine, required("name", request.name), "files of")
        found = await self._engine.stat_path(name, required("path", request.path))
        return pb.ContainerServiceStatPathResponse(stat=path_stat(found))

    async def CopyOut(self, request: pb.ContainerServiceCopyOutRequest, context: Context) -> None:  # type: ignore[override]
        name = await entered(self._engine, required("name", request.name), "files of")
        items = self._engine.copy_out(name, required("path", request.path), request.follow_link)
        await send_all(context, items, _copied)

    async def CopyIn(
        self, requests: AsyncIterator[pb.ContainerServiceCopyInRequest], context: Context
    ) -> pb.ContainerServiceCopyInResponse:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "start":
            raise invalid("start", "must be the first message")
        start = first.start
        note(start)
        await self._engine.copy_in(
            await entered(self._engine, required("start.name", start.name), "files of"),
            required("start.path", start.path),
            _chunks(requests),
            start.keep_owner,
            start.no_overwrite_dir_non_dir,
        )
        return pb.ContainerServiceCopyInResponse()

    async def Export(self, request: pb.ContainerServiceExportRequest, context: Context) -> None:  # type: ignore[override]
        name = await entered(self._engine, required("name", request.name), "files of")
        chunks = self._engine.export_container(name)
        await send_all(context, chunks, lambda chunk: pb.ContainerServiceExportResponse(chunk=chunk))


def path_stat(found: PathStat) -> pb.PathStat:
    """As the API has it. Names that are no UTF-8 lose what can't be said."""
    stat = pb.PathStat(
        name=_said(found.name),
        size_bytes=found.size,
        mode=found.mode,
        link_target=_said(found.link),
        uid=found.uid,
        gid=found.gid,
    )
    stat.modified_at.FromNanoseconds(found.mtime_ns)
    return stat


def _said(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _copied(item: PathStat | bytes) -> pb.ContainerServiceCopyOutResponse:
    if isinstance(item, bytes):
        return pb.ContainerServiceCopyOutResponse(chunk=item)
    return pb.ContainerServiceCopyOutResponse(stat=path_stat(item))


async def _chunks(requests: AsyncIterator[pb.ContainerServiceCopyInRequest]) -> AsyncIterator[bytes]:
    async for message in requests:
        match message.WhichOneof("message"):
            case "chunk":
                if len(message.chunk) > _MAX_CHUNK:
                    raise invalid("chunk", f"is longer than {_MAX_CHUNK} bytes")
                yield message.chunk
            case "end":
                return
            case _:
                raise invalid("message", "only chunk and end follow start")
    raise Cancelled("the archive ended before it was complete", reason="TRUNCATED")
