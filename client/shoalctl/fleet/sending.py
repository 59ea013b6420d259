"""Files of this machine on a host: only what it lacks is sent, over several messages, again after a lost link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from shoal.errors import DataLoss, FailedPrecondition
from shoalctl.connect.ending import Ending
from shoalctl.connect.failure import LinkLost
from shoalctl.fleet.localtree import LocalEntry, LocalTree

if TYPE_CHECKING:
    from shoal.v1 import file_pb2
    from shoalctl.fleet.host import HostClient

CALL_TIMEOUT = 120.0
_ATTEMPTS = 5  # how often files that change, or a transfer that breaks off, are begun again
_AT_ONCE = 10_000


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
    await _put(host, tree, [blobs[digest] for digest in lacking])


async def _put(host: HostClient, tree: LocalTree, entries: Sequence[LocalEntry]) -> None:
    from shoal.v1 import file_pb2, file_pb2_grpc

    message = file_pb2.FileServicePutRequest
    channel = await host.link.channel()
    call = file_pb2_grpc.FileServiceStub(channel).Put()
    ending = Ending(call)
    try:
        for entry in entries:
            await call.write(message(begin=message.Begin(digest=entry.digest, size_bytes=entry.size)))
            chunks = tree.read(entry)
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                await call.write(message(chunk=chunk))
        await call.done_writing()
        await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
        raise await ending.error() from error
    finally:
        call.cancel()
    host.link.answered()


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
