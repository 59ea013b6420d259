"""shoal.v1.FileService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.v1 import file_pb2 as pb
from shoal.v1 import file_pb2_grpc
from shoald.api.checks import invalid, required
from shoald.api.privileges import entered
from shoald.api.streams import Context
from shoald.engine.ports import Engine
from shoald.model.file import TreeEntry

_MAX_CHUNK_BYTES = 1 << 20
_MOST = 20_000
"""Digests of an answer."""


class FileService(file_pb2_grpc.FileServiceServicer):
    """Thin: decode, call the engine, encode."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Missing(self, request: pb.FileServiceMissingRequest, context: Context) -> pb.FileServiceMissingResponse:
        return pb.FileServiceMissingResponse(digests=self._engine.files.missing(list(request.digests)))

    async def Put(
        self, requests: AsyncIterator[pb.FileServicePutRequest], context: Context
    ) -> pb.FileServicePutResponse:
        blobs = _Blobs(requests)
        while (begin := await blobs.begin()) is not None:
            if isinstance(begin, pb.FileServicePutRequest.Batch):
                await self._engine.files.put_all([(blob.digest, blob.content) for blob in begin.blobs])
                continue
            await self._engine.files.put(required("begin.digest", begin.digest), begin.size_bytes, blobs.chunks())
        return pb.FileServicePutResponse()

    async def Assemble(
        self, request: pb.FileServiceAssembleRequest, context: Context
    ) -> pb.FileServiceAssembleResponse:
        entries = [_entry(each) for each in request.entries]
        return pb.FileServiceAssembleResponse(digest=await self._engine.files.assemble(entries))

    async def PrepareContext(
        self, request: pb.FileServicePrepareContextRequest, context: Context
    ) -> pb.FileServicePrepareContextResponse:
        missing = await self._engine.files.prepare_context(required("digest", request.digest))
        return pb.FileServicePrepareContextResponse(missing=missing[:_MOST], more=len(missing) > _MOST)

    async def Replace(self, request: pb.FileServiceReplaceRequest, context: Context) -> pb.FileServiceReplaceResponse:
        await self._engine.files.replace(
            await entered(self._engine, required("name", request.name), "files of"),
            required("target", request.target),
            required("digest", request.digest),
        )
        return pb.FileServiceReplaceResponse()

    async def PutSecret(
        self, request: pb.FileServicePutSecretRequest, context: Context
    ) -> pb.FileServicePutSecretResponse:
        if bool(request.container) != bool(request.target):
            raise invalid("target", "goes with container, and container with target")
        container = await entered(self._engine, request.container, "a secret of") if request.container else ""
        handle = await self._engine.files.put_secret(request.value, request.mode, container, request.target)
        return pb.FileServicePutSecretResponse(handle=handle)


class _Blobs:
    """The client's stream as blobs, one after the other."""

    def __init__(self, requests: AsyncIterator[pb.FileServicePutRequest]) -> None:
        self._requests = aiter(requests)
        self._next: pb.FileServicePutRequest | None = None

    async def begin(self) -> pb.FileServicePutRequest.Begin | pb.FileServicePutRequest.Batch | None:
        """The next blob, or several; None at the end. Raises InvalidArgument (INVALID_FIELD)."""
        message = self._next or await anext(self._requests, None)
        self._next = None
        if message is None:
            return None
        match message.WhichOneof("message"):
            case "begin":
                return message.begin
            case "batch":
                if sum(len(blob.content) for blob in message.batch.blobs) > _MAX_CHUNK_BYTES:
                    raise invalid("batch", f"has more than {_MAX_CHUNK_BYTES} bytes")
                return message.batch
        raise invalid("message", "a blob starts with begin")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the present one."""
        async for message in self._requests:
            match message.WhichOneof("message"):
                case "begin" | "batch":
                    self._next = message
                    return
                case "chunk":
                    if len(message.chunk) > _MAX_CHUNK_BYTES:
                        raise invalid("chunk", f"has {len(message.chunk)} bytes, more than {_MAX_CHUNK_BYTES}")
                    yield message.chunk
                case _:
                    raise invalid("message", "is empty")


def _entry(message: pb.FileServiceAssembleRequest.Entry) -> TreeEntry:
    kind = message.WhichOneof("kind")
    return TreeEntry(
        path=message.path,
        blob=message.blob if kind == "blob" else "",
        link=message.link if kind == "link" else "",
        directory=kind == "directory",
        mode=message.mode,
        modified_ns=message.modified_ns,
    )
