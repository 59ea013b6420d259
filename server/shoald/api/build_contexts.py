"""The contexts of a build as its client sends them: the main one first, then named ones, each a tar stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.errors import Cancelled, InvalidArgument
from shoal.v1 import image_pb2 as pb
from shoald.api.checks import invalid
from shoald.api.streams import Context
from shoald.model.build import BuildRequest

_MAX_CHUNK_BYTES = 1 << 20
_TAR_END = bytes(1024)
"""POSIX ustar: an archive ends with two blocks of zeros."""


async def sent_contexts(
    requests: AsyncIterator[pb.ImageServiceBuildRequest], request: BuildRequest, context: Context
) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
    """Name ("" is the main context) and bytes of each that is sent as an archive, to be read before the next.

    Raises InvalidArgument (INVALID_FIELD), Cancelled (CONTEXT_TRUNCATED).
    """
    awaited = {name for name, image in {"": "", **request.contexts}.items() if not image} - request.manifests.keys()
    stream = _Stream(requests, context)
    name: str | None = ""
    if "" not in awaited:
        async for _ in stream.chunks():
            raise invalid("message", "nothing is sent of a context by manifest")
        name = stream.following
    while name is not None:
        if name not in awaited:
            raise invalid("context_name", f"{name[:80]!r} is not a context of this build, or was sent already")
        awaited.discard(name)
        yield name, stream.chunks()
        name = stream.following
    if awaited:
        raise _truncated()


class _Stream:
    """The messages after `start`."""

    def __init__(self, requests: AsyncIterator[pb.ImageServiceBuildRequest], context: Context) -> None:
        self._requests = requests
        self._context = context
        self.following: str | None = None
        """The name of the context that comes after the one that was read."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of one context. A stream that was cut looks like one that ended: the archive's end mark tells them
        apart."""
        self.following = None
        tail = b""
        async for message in self._requests:
            kind = message.WhichOneof("message")
            if kind == "context_name":
                self.following = message.context_name
                break
            if kind != "context_chunk":
                raise invalid("message", "only context_chunk and context_name may follow start")
            chunk = message.context_chunk
            if len(chunk) > _MAX_CHUNK_BYTES:
                raise InvalidArgument(
                    f"context_chunk: has {len(chunk)} bytes, more than {_MAX_CHUNK_BYTES}",
                    reason="INVALID_FIELD",
                    metadata={"field": "context_chunk"},
                )
            if chunk:
                tail = (tail + chunk)[-len(_TAR_END) :]
                yield chunk
        if self._context.cancelled() or (tail and tail != _TAR_END):
            raise _truncated()


def _truncated() -> Cancelled:
    return Cancelled(
        "the build's context ended before its archive was complete",
        reason="CONTEXT_TRUNCATED",
        hint="the connection was lost while the context was sent; start the build again",
    )
