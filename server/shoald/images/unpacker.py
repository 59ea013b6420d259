"""The unpacking program as the daemon sees it: bytes in, files and their digest out."""

from __future__ import annotations

import asyncio
import contextlib
import errno as errnos
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from shoal.errors import DataLoss, Internal, InvalidArgument, ResourceExhausted, ShoalError
from shoald.host.process import PIPE, Process, program_failed, spawn
from shoald.host.syscall import failure

Mode = Literal["layer", "context", "archive", "volume"]
_MAX_RESULT = 64 << 20
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
"""What packing and unpacking programs get to see."""


class Unpacked(Struct, frozen=True):
    """What came out of an archive; see shoald.host.unpack. Sizes in bytes."""

    diff_id: str
    tar_bytes: int
    content_bytes: int
    entries: int
    implicit: tuple[str, ...]
    opaque_root: bool


class UnpackLimits(Struct, frozen=True):
    """Bounds of one archive; None: the program's generous defaults."""

    bytes: int | None = None
    entries: int | None = None
    ratio: int | None = None

    def arguments(self) -> list[str]:
        """As the program takes them."""
        given = {"--max-bytes": self.bytes, "--max-entries": self.entries, "--max-ratio": self.ratio}
        return [text for flag, value in given.items() if value is not None for text in (flag, str(value))]


class Unpacker:
    """A running program. Write all of the archive, then `finish`."""

    def __init__(self, child: Process) -> None:
        self._child = child
        self._broken = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    async def write(self, chunk: bytes) -> None:
        """Feed it, with back pressure. When it has given up already nothing happens: `finish` tells why."""
        if self._broken:
            return
        try:
            self._child.stdin.write(chunk)
            await self._child.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            self._broken = True

    async def finish(self) -> Unpacked:
        """End of input; wait for the result.

        Raises InvalidArgument (BAD_ARCHIVE, PATH_ESCAPE), DataLoss (TRUNCATED), ResourceExhausted (DISK_FULL,
        ARCHIVE_TOO_LARGE), Internal.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
            self._child.stdin.close()
        return await self.result()

    async def result(self) -> Unpacked:
        """Wait for the result of a program that reads a file. Raises as `finish`."""
        stderr = asyncio.ensure_future(self._child.stderr.read(1 << 16))
        try:
            text = bytearray()
            while part := await self._child.stdout.read(1 << 16):
                text += part
                if len(text) > _MAX_RESULT:
                    self._child.kill()
            status = await self._child.wait()
            return _read_result(self._child, status, bytes(text), await stderr)
        finally:
            stderr.cancel()


@contextlib.asynccontextmanager
async def unpacking(
    directory: Path,
    mode: Mode,
    *,
    source: Path | int | None = None,
    into: str = "",
    id_base: int = 0,
    owner: tuple[int, int] | None = None,
    limits: UnpackLimits | None = None,
) -> AsyncIterator[Unpacker]:
    """Run the program on `directory` (its root: nothing outside is ever touched) for the time of the context.

    `source` is the archive as a file or descriptor; without one, it comes by `write`. `into` is a path inside of
    `directory`. Killed when the context ends before it does.
    """
    argv = [sys.executable, "-I", "-m", "shoald.host.unpack", "--mode", mode]
    if into:
        argv += ["--into", into]
    if id_base:
        argv += ["--id-base", str(id_base)]
    if owner is not None:
        argv += ["--owner", f"{owner[0]}:{owner[1]}"]
    argv += (limits or UnpackLimits()).arguments()
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if isinstance(source, Path) else None
    try:
        stdin = fd if fd is not None else source if isinstance(source, int) else PIPE
        child = await spawn(argv, stdin=stdin, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, cwd=directory)
    finally:
        if fd is not None:
            os.close(fd)
    async with child:
        yield Unpacker(child)


def _read_result(child: Process, status: int, stdout: bytes, stderr: bytes) -> Unpacked:
    try:
        result: dict[str, Any] = json.loads(stdout)
    except ValueError:
        raise program_failed(("unpacker", *child.argv[4:]), status, stderr) from None
    if "error" in result:
        raise _error(result)
    return Unpacked(
        result["diff_id"],
        result["tar_bytes"],
        result["content_bytes"],
        result["entries"],
        tuple(result["implicit"]),
        result["opaque_root"],
    )


def _error(result: dict[str, Any]) -> ShoalError:
    reason, message = str(result["error"]), str(result["message"])
    match reason:
        case "DISK_FULL":
            hint = "free some space: `shoal rmi`, `shoal rm`; or give the daemon's root a larger disk"
            return ResourceExhausted(message, reason=reason, hint=hint)
        case "ARCHIVE_TOO_LARGE":
            return ResourceExhausted(message, reason=reason)
        case "TRUNCATED":
            return DataLoss(message, reason=reason)
        case "BAD_ARCHIVE" | "PATH_ESCAPE":
            return InvalidArgument(message, reason=reason)
        case "SYSCALL_FAILED":
            return failure("unpack", int(result.get("errno") or errnos.EIO), detail=message)
    return Internal(message, reason=reason)
