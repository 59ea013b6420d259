"""Archives that a host sends: into a file, to standard output, or unpacked in a directory."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO, cast

from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.packing import CHUNK
from shoalctl.fleet.unpacking import LocalTarget
from shoalctl.render import console

Chunks = AsyncGenerator[bytes, None]


async def write_archive(chunks: Chunks, output: str) -> None:
    """To a file, which is whole or not there, or to standard output (""). Raises UsageFault."""
    if not output:
        await _write(chunks, console.raw)
        return
    if os.path.exists(output) and not os.path.isfile(output):
        await _into(chunks, output)
        return
    temporary = Path(f"{output}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            await _write(chunks, file.write)
        temporary.replace(output)
    except OSError as error:
        raise UsageFault(f"can't write {output}: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


async def _into(chunks: Chunks, output: str) -> None:
    """Into a pipe or a device, which a file must not take the place of. Raises UsageFault."""
    try:
        with open(output, "wb", buffering=0) as file:
            await _write(chunks, lambda chunk: write_all(file.fileno(), chunk))
    except OSError as error:
        raise UsageFault(f"can't write {output}: {error.strerror}") from error


def write_all(fd: int, data: bytes) -> None:
    """Every byte (blocking). Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def unpack_archive(chunks: Chunks, target: LocalTarget) -> None:
    """As LocalTarget.unpack."""
    async with aclosing(chunks):
        stream = cast(BinaryIO, io.BufferedReader(_Pieces(chunks, asyncio.get_running_loop()), CHUNK))
        await asyncio.to_thread(target.unpack, stream)


async def _write(chunks: Chunks, take: Callable[[bytes], object]) -> None:
    async with aclosing(chunks):
        async for chunk in chunks:
            await asyncio.to_thread(take, chunk)


class _Pieces(io.RawIOBase):
    """Chunks from the event loop, read in a thread."""

    def __init__(self, chunks: Chunks, loop: asyncio.AbstractEventLoop) -> None:
        self._chunks = chunks
        self._loop = loop
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            chunk = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            if chunk is None:
                return 0
            self._left = chunk
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)
