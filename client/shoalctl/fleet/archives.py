"""Archives of images on one host: save and load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from shoalctl.connect.ending import Ending
from shoalctl.fleet.feeding import feed

if TYPE_CHECKING:
    from shoal.v1 import image_pb2
    from shoalctl.fleet.host import HostClient


class LoadedImage(NamedTuple):
    """An image of an archive, and the names that it has there."""

    image: image_pb2.Image
    names: tuple[str, ...]


async def save_images(
    host: HostClient, names: Sequence[str], *, docker: bool, expected: str = ""
) -> AsyncGenerator[bytes, None]:
    """Images as one tar, an OCI image layout; `docker`: with docker's manifest.json. `expected`: the id that all names
    must mean. LinkLost when the connection fails in its middle."""
    from shoal.v1 import image_pb2

    request = image_pb2.ImageServiceSaveRequest(names=names, docker=docker, expected_id=expected)
    async for message in host.link.stream(_images("Save"), request):
        yield message.chunk


async def load_images(
    host: HostClient, chunks: Iterator[bytes], progress: Callable[[Any], None] = lambda record: None
) -> list[LoadedImage]:
    """The images of an archive (plain, gzip or zstd), made on the host."""
    from shoal.v1 import image_pb2, image_pb2_grpc

    message = image_pb2.ImageServiceLoadRequest
    channel = await host.link.channel()
    call = image_pb2_grpc.ImageServiceStub(channel).Load()
    ending = Ending(call)

    async def write() -> None:
        try:
            await feed(call, chunks, lambda chunk: message(chunk=chunk))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; whoever reads it learns why
        except Exception:
            call.cancel()  # the host waits for more that never comes
            raise

    writing = asyncio.create_task(write())
    loaded: list[LoadedImage] = []
    try:
        async for answer in call:
            if answer.HasField("image"):
                loaded.append(LoadedImage(answer.image, tuple(answer.names)))
            else:
                progress(answer.progress)
        await writing
    except grpc.aio.AioRpcError as error:
        raise await ending.error() from error
    except asyncio.CancelledError:
        if writing.done() and not writing.cancelled() and (failure := writing.exception()) is not None:
            raise failure from None
        raise
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        call.cancel()
    host.link.answered()
    return loaded


def _images(name: str) -> Callable[[Any], Callable[..., Any]]:
    def pick(channel: Any) -> Any:
        from shoal.v1 import image_pb2_grpc

        return getattr(image_pb2_grpc.ImageServiceStub(channel), name)

    return pick
