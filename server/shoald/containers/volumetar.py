"""Trees of files as archives, always made and unpacked by confined programs: content of volumes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from shoal.errors import FailedPrecondition, ShoalError
from shoald.host.process import DEVNULL, PIPE, program_failed, spawn
from shoald.host.syscall import failure
from shoald.images.unpacker import ENVIRONMENT, UnpackLimits, unpacking

CHUNK = 256 << 10
_MAX_RESULT = 1 << 16


async def packed(directory: Path | str) -> AsyncIterator[bytes]:
    """The tree as an uncompressed tar, its root first, names in order. Raises FailedPrecondition (CHANGED) when a file
    became shorter while it was read."""
    argv = [sys.executable, "-I", "-m", "shoald.host.pack", "--compression", "none", "--mode", "tree"]
    child = await spawn(argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, cwd=directory)
    async with child:
        told = asyncio.ensure_future(child.stderr.read(_MAX_RESULT))
        try:
            while chunk := await child.stdout.read(CHUNK):
                yield chunk
            text, status = await told, await child.wait()
        finally:
            told.cancel()
    _check(text, status)


def _check(text: bytes, status: int) -> None:
    try:
        result = json.loads(text)
    except ValueError:
        raise program_failed(("packer",), status, text) from None
    if "error" in result:
        raise _error(str(result["error"]), str(result["message"]), result.get("errno"))


def _error(reason: str, message: str, code: int | None) -> ShoalError:
    if reason == "CHANGED":
        return FailedPrecondition(message, reason=reason, hint="stop the containers that write there, and try again")
    return failure("pack", code or 0, detail=message)


async def unpacked(chunks: AsyncIterable[bytes], directory: Path, limits: UnpackLimits | None = None) -> None:
    """Unpack a tar (plain, gzip or zstd) into a directory, over what is there. Raises InvalidArgument (BAD_ARCHIVE,
    PATH_ESCAPE), DataLoss (TRUNCATED), ResourceExhausted (DISK_FULL, ARCHIVE_TOO_LARGE)."""
    async with unpacking(directory, "volume", limits=limits) as unpacker:
        async for chunk in chunks:
            await unpacker.write(chunk)
        await unpacker.finish()


async def merged(source: Path | str, target: Path) -> None:
    """Copy a tree over another one, to which others may write at the same time: no link of theirs leads anywhere."""
    await unpacked(packed(source), target)
