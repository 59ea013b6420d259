"""ImageService.LendCache: a cache on a client's disk for its builds."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shoal.v1 import image_pb2 as pb
from shoald.api.checks import invalid, required
from shoald.api.streams import Context, until_first
from shoald.build.lending import CacheLenders, Loan, Want

MIN_HANDLE = 16
_MAX_CHUNK_BYTES = 1 << 20
_MAX_ERROR = 200


async def lend_cache(
    lenders: CacheLenders, requests: AsyncIterator[pb.ImageServiceLendCacheRequest], context: Context
) -> None:
    """Serve one call to its end. Raises InvalidArgument (INVALID_FIELD)."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "start":
        raise invalid("start", "must be the first message")
    handle = required("start.handle", first.start.handle)
    if len(handle) < MIN_HANDLE:
        raise invalid("start.handle", f"has fewer than {MIN_HANDLE} characters")
    with lenders.lent(handle) as loan:
        await until_first(_order(loan, context), _take(loan, requests))


async def _order(loan: Loan, context: Context) -> None:
    while True:
        await context.write(_message(await loan.orders.get()))


def _message(order: Want | int) -> pb.ImageServiceLendCacheResponse:
    if isinstance(order, int):
        return pb.ImageServiceLendCacheResponse(drop=order)
    want = pb.ImageServiceLendCacheResponse.Want(number=order.number, digest=order.digest, offset=order.offset)
    return pb.ImageServiceLendCacheResponse(want=want)


async def _take(loan: Loan, requests: AsyncIterator[pb.ImageServiceLendCacheRequest]) -> None:
    async for message in requests:
        match message.WhichOneof("message"):
            case "chunk":
                if not message.chunk.data:
                    raise invalid("chunk", "is empty")
                if len(message.chunk.data) > _MAX_CHUNK_BYTES:
                    raise invalid("chunk", f"has {len(message.chunk.data)} bytes, more than {_MAX_CHUNK_BYTES}")
                await loan.take(message.chunk.number, message.chunk.data)
            case "end":
                loan.end(message.end.number, message.end.error[:_MAX_ERROR])
            case _:
                raise invalid("message", "only chunk and end may follow start")
