"""The files that clients send to a fake daemon."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from shoal.errors import FailedPrecondition, ShoalError
from shoal.manifest import parsed
from shoal.v1 import file_pb2, file_pb2_grpc


class FakeFiles(file_pb2_grpc.FileServiceServicer):
    """Blobs by digest. `daemon` is told of calls (`note`), and holds the blobs."""

    def __init__(self, daemon: Any, refuse: Callable[[Any, ShoalError], None]) -> None:
        self._daemon = daemon
        self._refuse = refuse

    def Put(self, requests: Iterator[Any], context: Any) -> Any:
        self._daemon.note("Put", None, context)
        at = ""
        for request in requests:
            match request.WhichOneof("message"):
                case "begin":
                    at = request.begin.digest
                    self._daemon.blobs[at] = b""
                case "chunk":
                    self._daemon.blobs[at] += request.chunk
                case "batch":
                    self._daemon.blobs.update({blob.digest: blob.content for blob in request.batch.blobs})
        assert all(key == f"sha256:{hashlib.sha256(data).hexdigest()}" for key, data in self._daemon.blobs.items())
        return file_pb2.FileServicePutResponse()

    def PrepareContext(self, request: Any, context: Any) -> Any:
        self._daemon.note("PrepareContext", request, context)
        manifest = self._daemon.blobs.get(request.digest)
        if manifest is None:
            self._refuse(context, FailedPrecondition("no such context", reason="CONTEXT_MISSING"))
            raise AssertionError
        wanted = {f"sha256:{entry.digest}" for entry in parsed(manifest) if entry.kind == "f"}
        return file_pb2.FileServicePrepareContextResponse(missing=sorted(wanted - self._daemon.blobs.keys()))
