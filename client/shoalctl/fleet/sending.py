"""Files of this machine on a host: only what it lacks is sent, over several messages, again after a lost link."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from shoal.errors import DataLoss, FailedPrecondition
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.localtree import READ, LocalEntry, LocalTree, changed

if TYPE_CHECKING:
    from shoal.v1 import file_pb2
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.manifest import Content, Manifest

CALL_TIMEOUT = 120.0
_ATTEMPTS = 5  # how often files that change, or a transfer that breaks off, are begun again
_AT_ONCE = 10_000
_STREAMS = 3
_SMALL, _BATCH, _OVERHEAD, _CHUNK = 256 << 10, 512 << 10, 80, 512 << 10  # bytes


async def send_tree(host: HostClient, tree: LocalTree) -> str:
    """Let the host have the tree; its digest there. Raises FailedPrecondition (FILES_CHANGED) when it never stays as it
    is for long enough."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            await asyncio.to_thread(tree.scan)
        try:
            return await _assembled(host, tree)
        except FailedPrecondition as error:
            if error.reason != "BLOB_MISSING":
                raise
        try:
            await _send_missing(host, tree)
            return await _assembled(host, tree)
        except LinkLost:
            await host.link.reconnect()
        except DataLoss as error:
            if error.reason != "DIGEST_MISMATCH":
                raise
        except FailedPrecondition as error:
            if error.reason not in ("BLOB_MISSING", "FILES_CHANGED"):
                raise
    raise FailedPrecondition(f"{tree.path} changes all the time while it is sent", reason="FILES_CHANGED")


async def send_context(
    host: HostClient, manifest: Manifest, sent: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Let the host have what it lacks of a build's context; `sent` is told bytes and their sum as they go.

    Raises DataLoss (DIGEST_MISMATCH), FailedPrecondition (FILES_CHANGED) for files that changed since then.
    """
    from shoal.v1 import file_pb2

    request = file_pb2.FileServicePrepareContextRequest(digest=manifest.digest)
    more = True
    while more:
        try:
            answer = await host.link.unary(_files("PrepareContext"), request, timeout=CALL_TIMEOUT)
        except FailedPrecondition as error:
            if error.reason != "CONTEXT_MISSING":
                raise
            await send_manifest(host, manifest)
            answer = await host.link.unary(_files("PrepareContext"), request, timeout=CALL_TIMEOUT)
        await _send_contents(host, [(digest, manifest.contents[digest]) for digest in answer.missing], sent)
        more = answer.more


async def send_manifest(host: HostClient, manifest: Manifest) -> None:
    """Let the host know what is in a build's context."""
    await _put(host, [Blob(manifest.digest, len(manifest.data), lambda: iter(_pieces(manifest.data)))])


async def _send_contents(
    host: HostClient, lacking: Sequence[tuple[str, Content]], sent: Callable[[int, int], None]
) -> None:
    total = sum(content.size for _, content in lacking)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        sent(done, total)

    blobs = [Blob(digest, content.size, partial(_read, content)) for digest, content in lacking]
    tasks = [asyncio.create_task(_put(host, blobs[n::_STREAMS], count)) for n in range(_STREAMS) if blobs[n::_STREAMS]]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def put_secret(host: HostClient, value: bytes, mode: int, *, container: str = "", target: str = "") -> str:
    """Let the host hold a value for a container; its handle."""
    from shoal.v1 import file_pb2

    request = file_pb2.FileServicePutSecretRequest(value=value, mode=mode, container=container, target=target)
    answer = await host.link.unary(_files("PutSecret"), request)
    return str(answer.handle)


async def replace_tree(host: HostClient, container: str, target: str, digest: str) -> None:
    """Switch a container's mount to another tree."""
    from shoal.v1 import file_pb2

    request = file_pb2.FileServiceReplaceRequest(name=container, target=target, digest=digest)
    await host.link.unary(_files("Replace"), request, timeout=CALL_TIMEOUT)


async def _assembled(host: HostClient, tree: LocalTree) -> str:
    from shoal.v1 import file_pb2

    request = file_pb2.FileServiceAssembleRequest(entries=map(_message, tree.entries))
    answer = await host.link.unary(_files("Assemble"), request, timeout=CALL_TIMEOUT)
    return str(answer.digest)


async def _send_missing(host: HostClient, tree: LocalTree) -> None:
    from shoal.v1 import file_pb2

    blobs = tree.blobs()
    digests = list(blobs)
    lacking: list[str] = []
    for start in range(0, len(digests), _AT_ONCE):
        request = file_pb2.FileServiceMissingRequest(digests=digests[start : start + _AT_ONCE])
        lacking += (await host.link.unary(_files("Missing"), request, timeout=CALL_TIMEOUT)).digests
    await _put(host, [Blob(digest, blobs[digest].size, partial(tree.read, blobs[digest])) for digest in lacking])


class Blob(NamedTuple):
    """A content to send; `chunks` gives its bytes (blocking)."""

    digest: str
    size: int
    chunks: Callable[[], Iterator[bytes]]


async def _put(host: HostClient, blobs: Sequence[Blob], sent: Callable[[int], None] = lambda size: None) -> None:
    """Small ones together, large ones in pieces."""
    from shoal.v1 import file_pb2, file_pb2_grpc

    message = file_pb2.FileServicePutRequest
    channel = await host.link.channel()
    call = file_pb2_grpc.FileServiceStub(channel).Put()
    ending = Ending(call)
    try:
        async for batch in _batches(blob for blob in blobs if blob.size <= _SMALL):
            await call.write(message(batch=message.Batch(blobs=batch)))
            sent(sum(len(blob.content) for blob in batch))
        for blob in blobs:
            if blob.size > _SMALL:
                await call.write(message(begin=message.Begin(digest=blob.digest, size_bytes=blob.size)))
                chunks = blob.chunks()
                while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                    await call.write(message(chunk=chunk))
                    sent(len(chunk))
        await call.done_writing()
        await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise await ending.error() from error
    finally:
        call.cancel()
    host.link.answered()


async def _batches(blobs: Iterable[Blob]) -> AsyncIterator[list[file_pb2.FileServicePutRequest.Blob]]:
    """Each of about half a MiB, read in a thread."""
    pending = iter(blobs)
    while batch := await asyncio.to_thread(_batch, pending):
        yield batch


def _batch(blobs: Iterator[Blob]) -> list[file_pb2.FileServicePutRequest.Blob]:
    from shoal.v1 import file_pb2

    batch: list[file_pb2.FileServicePutRequest.Blob] = []
    size = 0
    while size < _BATCH and (blob := next(blobs, None)) is not None:
        batch.append(file_pb2.FileServicePutRequest.Blob(digest=blob.digest, content=b"".join(blob.chunks())))
        size += blob.size + _OVERHEAD
    return batch


def _read(content: Content) -> Iterator[bytes]:
    """The bytes of a file, as many as were found (blocking). Raises FailedPrecondition (FILES_CHANGED)."""
    try:
        fd = os.open(content.path, READ)
    except OSError as error:
        raise changed(content.path) from error
    with open(fd, "rb", buffering=0) as file:
        left = content.size
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]


def _message(entry: LocalEntry) -> file_pb2.FileServiceAssembleRequest.Entry:
    from shoal.v1 import file_pb2

    kind = file_pb2.FileServiceAssembleRequest.Entry
    message = kind(path=entry.path, mode=entry.mode, modified_ns=entry.modified_ns)
    if entry.digest:
        message.blob = entry.digest
    elif entry.link:
        message.link = entry.link
    else:
        message.directory.SetInParent()
    return message


def _files(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import file_pb2_grpc

        return getattr(file_pb2_grpc.FileServiceStub(channel), name)

    return pick
