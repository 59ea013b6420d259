"""The course of `shoal cp`: docker's rules, decided on what is at both ends."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from shoal.errors import Internal
from shoalctl import exits
from shoalctl.commands.exporting import unpack_archive, write_archive
from shoalctl.flags.copy_paths import STREAM, CopyPath, asserts_directory, names_content, split, target
from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.copying import copy_in, copy_out, stat_path
from shoalctl.fleet.host import HostClient
from shoalctl.fleet.packing import CHUNK, LocalSource
from shoalctl.fleet.unpacking import LocalTarget
from shoalctl.render import console
from shoalctl.render.human import size as shown_size

if TYPE_CHECKING:
    from shoal.v1 import container_pb2


class Copying:
    """One `shoal cp` on one host."""

    def __init__(self, host: HostClient, *, archive: bool, follow: bool, quiet: bool) -> None:
        self._host = host
        self._archive = archive
        self._follow = follow
        self._quiet = quiet

    async def run(self, source: CopyPath, destination: CopyPath) -> int:
        """The exit code. Raises UsageFault, ShoalError."""
        if destination.container:
            await self._into(destination, source.path)
        else:
            await self._out_of(source, destination.path)
        return exits.OK

    # --- into a container -------------------------------------------------------------------------------------------

    async def _into(self, destination: CopyPath, source: str) -> None:
        name, path = destination.container, _absolute(destination.path)
        found = await stat_path(self._host, name, path)
        if found is not None and stat.S_ISLNK(found.mode):
            path = found.link_target
            found = await stat_path(self._host, name, path)
        is_directory = found is not None and stat.S_ISDIR(found.mode)
        if found is not None and not is_directory and not stat.S_ISREG(found.mode):
            raise UsageFault(f"{name}:{path} is neither a directory nor a regular file")
        if source == STREAM:
            if not is_directory:
                raise UsageFault(f"{name}:{path} must be a directory that exists")
            if sys.stdin.isatty():
                raise UsageFault("there is no archive on a terminal", hint="use a pipe")
            await copy_in(self._host, name, path, _standard_input(), keep_owner=self._archive)
            return
        local = _local_source(source, follow=self._follow)
        where = target(
            local.name,
            source_is_directory=local.is_directory,
            path=path,
            exists=found is not None,
            is_directory=is_directory,
            shown=f"{name}:{destination.path}",
        )
        packed = LocalSource(local.path, where.name, follow=local.follow)
        await copy_in(self._host, name, where.directory, packed.chunks(), keep_owner=self._archive)
        self._done(packed.size, f"{name}:{destination.path}")

    # --- out of a container -----------------------------------------------------------------------------------------

    async def _out_of(self, source: CopyPath, destination: str) -> None:
        if destination == STREAM and sys.stdout.isatty():
            raise UsageFault("an archive is not for a terminal", hint="use a pipe or a file")
        path = _absolute(source.path)
        if destination != STREAM:
            _check_parent(destination)
        async with aclosing(copy_out(self._host, source.container, path, follow=self._follow)) as items:
            found = await anext(items)
            if isinstance(found, bytes):
                raise Internal("the host sent an archive without telling of what")
            if destination == STREAM:
                await write_archive(_chunks(items), "")
                return
            resolved = _resolved(destination)
            exists = os.path.lexists(resolved)
            where = target(
                found.name,
                source_is_directory=stat.S_ISDIR(found.mode),
                path=resolved,
                exists=exists,
                is_directory=os.path.isdir(resolved),
                shown=destination,
            )
            unpacked = LocalTarget(where.directory, where.name, keep_owner=self._archive)
            await unpack_archive(_chunks(items), unpacked)
        self._done(unpacked.size, destination)

    def _done(self, size: int, where: str) -> None:
        if not self._quiet and sys.stderr.isatty():
            console.err(f"Copied {shown_size(size)} to {where}")


async def _chunks(items: AsyncGenerator[container_pb2.PathStat | bytes, None]) -> AsyncGenerator[bytes, None]:
    """What follows the stat."""
    async for item in items:
        yield cast(bytes, item)


class _Local:
    """A source of this machine."""

    def __init__(self, path: str, name: str, *, is_directory: bool, follow: bool) -> None:
        self.path = path
        self.name = name
        self.is_directory = is_directory
        self.follow = follow


def _local_source(text: str, *, follow: bool) -> _Local:
    path = _posix(os.path.abspath(text))
    content = names_content(_posix(text))
    follow = follow or asserts_directory(_posix(text))
    try:
        found = os.stat(path) if follow else os.lstat(path)
    except OSError as error:
        raise UsageFault(f"can't read {text}: {error.strerror}") from error
    is_directory = stat.S_ISDIR(found.st_mode)
    if asserts_directory(_posix(text)) and not is_directory:
        raise UsageFault(f"{text} is not a directory")
    return _Local(path, "." if content else split(path)[1], is_directory=is_directory, follow=follow)


def _check_parent(text: str) -> None:
    parent = os.path.dirname(os.path.abspath(text))
    if not os.path.isdir(parent):
        raise UsageFault(f"there is no directory {parent}")


def _resolved(text: str) -> str:
    """The absolute destination, with links at its end followed and its slash at the end kept."""
    path = os.path.abspath(text)
    if os.path.islink(path):
        path = os.path.realpath(path)
    path = _posix(path)
    if names_content(_posix(text)):
        return path.rstrip("/") + "/."
    return path + "/" if _posix(text).endswith("/") and path != "/" else path


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _posix(path: str) -> str:
    return path.replace("\\", "/") if os.name == "nt" else path


def _standard_input() -> Iterator[bytes]:
    while chunk := os.read(sys.stdin.fileno(), CHUNK):
        yield chunk
