"""Files of containers, whether they run or not, and of images, by confined programs (shoald.host.containerfiles)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shoal.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ShoalError,
)
from shoald.containers.places import Placed
from shoald.host.pid import process_start_time
from shoald.host.process import DEVNULL, PIPE, Process, program_failed, spawn
from shoald.host.syscall import failure
from shoald.host.userns import IdMap, UserNamespaces
from shoald.host.view import View
from shoald.images.unpacker import ENVIRONMENT
from shoald.metadata.leases import HoldKind
from shoald.metadata.store import Metadata
from shoald.model.container import Container, ContainerState
from shoald.model.image import Image
from shoald.model.path import PathStat
from shoald.snapshots.ports import Snapshotter

CHUNK = 256 << 10
_MAX_ERROR = 1 << 16
_ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED)

Still = Callable[[str], AbstractAsyncContextManager[tuple[Path, list[Placed]]]]
"""Mounts a container that does not run, and keeps it from starting: (root file system, its mounts)."""


@dataclass(frozen=True)
class _Place:
    """What a program needs to enter a container: working directory, descriptors to inherit, the view."""

    directory: Path
    view: View
    fds: tuple[int, ...] = ()


@dataclass
class _Watch:
    """Ends the program when the run that it looks at is over: it would keep the file system busy."""

    find: Callable[[str], Container | None]
    change: Callable[[str], asyncio.Event]
    ended: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def follow(self, container: Container, child: Process) -> None:
        while True:
            changed = self.change(container.id)
            current = self.find(container.id)
            if current is None or current.state not in _ALIVE or current.pid != container.pid:
                self.ended = True
                child.kill()
                return
            await changed.wait()


class ContainerFiles:
    """Stat, copy in, copy out, export."""

    def __init__(
        self,
        find: Callable[[str], Container | None],
        change: Callable[[str], asyncio.Event],
        still: Still,
        bundle_rootfs: Callable[[str], Path],
        userns: UserNamespaces,
        userns_size: int,
    ) -> None:
        """`find` the record by id; `change`: an event for the next change of it; `bundle_rootfs`: where the root file
        system of one that runs is mounted."""
        self._find = find
        self._change = change
        self._still = still
        self._bundle_rootfs = bundle_rootfs
        self._userns = userns
        self._userns_size = userns_size

    async def stat(self, container: Container, path: str) -> PathStat:
        """What is at a path, links on the way followed. Raises NotFound (PATH_NOT_FOUND), FailedPrecondition
        (NOT_A_DIRECTORY, TOO_MANY_LINKS)."""
        async with self._program(container, {"operation": "stat", "path": path}, stdin=DEVNULL) as child:
            line = await child.stdout.readline()
            await _finish(child, f"container {container.name}")
            return msgspec.json.decode(line, type=PathStat)

    async def read(self, container: Container, path: str, *, follow: bool) -> AsyncGenerator[PathStat | bytes, None]:
        """What is at the path, then a tar of it in chunks. Raises as `stat`."""
        request = {"operation": "out", "path": path, "follow": follow}
        async with self._program(container, request, stdin=DEVNULL) as child:
            line = await child.stdout.readline()
            if not line.endswith(b"\n"):
                await _finish(child, f"container {container.name}")
                raise Internal("the copying program said nothing", reason="PROGRAM_FAILED")
            yield msgspec.json.decode(line, type=PathStat)
            while chunk := await child.stdout.read(CHUNK):
                yield chunk
            await _finish(child, f"container {container.name}")

    async def write(
        self, container: Container, path: str, chunks: AsyncIterable[bytes], *, keep_owner: bool, guard_types: bool
    ) -> None:
        """Unpack a tar, perhaps compressed, in a directory of the container.

        Raises as `stat`, and FailedPrecondition (READ_ONLY, TYPE_CONFLICT, NOT_PERMITTED), InvalidArgument
        (BAD_ARCHIVE, PATH_ESCAPE), DataLoss (TRUNCATED), ResourceExhausted (DISK_FULL, ARCHIVE_TOO_LARGE).
        """
        request = {"operation": "in", "path": path, "keep_owner": keep_owner, "guard_types": guard_types}
        async with self._program(container, request, stdin=PIPE) as child:
            broken = False
            async for chunk in chunks:
                # When it has given up, `finish` tells why; what the client still sends is of no use.
                if broken := not await _fed(child, chunk):
                    break
            if not broken:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
                    child.stdin.close()
            await _finish(child, f"container {container.name}")

    async def export(self, container: Container) -> AsyncGenerator[bytes, None]:
        """The whole root file system without what is mounted in it, as a tar in chunks."""
        async with self._program(container, {"operation": "export"}, stdin=DEVNULL, mounts=False) as child:
            while chunk := await child.stdout.read(CHUNK):
                yield chunk
            await _finish(child, f"container {container.name}")

    # --- the program ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _program(
        self, container: Container, request: dict[str, Any], *, stdin: int, mounts: bool = True
    ) -> AsyncIterator[Process]:
        async with AsyncExitStack() as stack:
            running = container.state in _ALIVE
            if running:
                entering = self._inside(container) if mounts else self._root_of_running(container)
            else:
                entering = self._outside(container, mounts=mounts)
            place = await stack.enter_async_context(entering)
            child = await stack.enter_async_context(await _started(place, request, stdin=stdin))
            watch = _Watch(self._find, self._change)
            following = asyncio.create_task(watch.follow(container, child)) if running else None
            try:
                yield child
            except ShoalError as error:
                if watch.ended:
                    message = f"container {container.name} ended during the copy"
                    raise FailedPrecondition(message, reason="NOT_RUNNING", hint="try again") from error
                raise
            finally:
                if following is not None:
                    following.cancel()
                    await asyncio.wait([following])

    @contextlib.asynccontextmanager
    async def _inside(self, container: Container) -> AsyncIterator[_Place]:
        """A running container as its first process sees it."""
        with contextlib.ExitStack() as fds:

            def opened(name: str) -> int:
                fd = os.open(f"/proc/{container.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                fds.callback(os.close, fd)
                return fd

            try:
                mounts, users = opened("mnt"), opened("user")
                if process_start_time(container.pid) != container.pid_start_time:
                    raise FileNotFoundError
            except (FileNotFoundError, ProcessLookupError):
                message = f"container {container.name} has just ended"
                raise FailedPrecondition(message, reason="NOT_RUNNING", hint="try again") from None
            same = os.fstat(users).st_ino == os.stat("/proc/self/ns/user").st_ino
            if same and container.userns_base:
                raise Internal(f"container {container.name} has lost its user namespace", reason="USERNS_LOST")
            inherited = (mounts,) if same else (mounts, users)
            yield _Place(Path("/"), View(mounts=mounts, users=None if same else users), inherited)

    @contextlib.asynccontextmanager
    async def _root_of_running(self, container: Container) -> AsyncIterator[_Place]:
        async with self._users(container) as users:
            view = View(users=users, root_id=container.userns_base)
            yield _Place(self._bundle_rootfs(container.id), view, () if users is None else (users,))

    @contextlib.asynccontextmanager
    async def _outside(self, container: Container, *, mounts: bool) -> AsyncIterator[_Place]:
        async with self._still(container.id) as (rootfs, placed), self._users(container) as users:
            binds = [(each.source, each.mount.target, each.mount.read_only) for each in placed if each.source]
            view = View(
                users=users,
                binds=binds if mounts else (),
                read_only=container.spec.read_only,
                root_id=container.userns_base,
            )
            yield _Place(rootfs, view, () if users is None else (users,))

    @contextlib.asynccontextmanager
    async def _users(self, container: Container) -> AsyncIterator[int | None]:
        """A user namespace with the container's ids."""
        if not container.userns_base:
            yield None
            return
        ids = IdMap(0, container.userns_base, self._userns_size)
        async with self._userns.hold([ids]) as fds:
            yield fds[ids]


class ImageFiles:
    """Files of images, by the same programs."""

    def __init__(self, md: Metadata, snapshots: Snapshotter) -> None:
        self._md = md
        self._snapshots = snapshots

    async def export(self, image: Image) -> AsyncGenerator[bytes, None]:
        """The whole root file system as a tar in chunks. Raises DataLoss (SNAPSHOT_LOST)."""
        with self._md.leases.lease("export") as lease:
            top = self._md.snapshots.by_chain(image.chain_id) if image.chain_id else None
            if top is not None:
                self._md.leases.hold(lease, HoldKind.SNAPSHOT, top.id)
            elif image.chain_id:
                raise DataLoss(
                    f"the layers of image {image.id} are gone",
                    reason="SNAPSHOT_LOST",
                    hint="remove the image and pull it again",
                )
            async with self._snapshots.mounted(top.id if top else None) as root:
                async with await _started(_Place(root, View()), {"operation": "export"}, stdin=DEVNULL) as child:
                    while chunk := await child.stdout.read(CHUNK):
                        yield chunk
                    await _finish(child, f"image {image.id}")


async def _started(place: _Place, request: dict[str, Any], *, stdin: int) -> Process:
    argv = [sys.executable, "-I", "-m", "shoald.host.containerfiles"]
    argv.append(json.dumps({**request, "view": asdict(place.view)}))
    return await spawn(
        argv, stdin=stdin, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, cwd=place.directory, pass_fds=place.fds
    )


async def _finish(child: Process, subject: str) -> None:
    """The program's end. Raises what it failed with."""
    text = await child.stderr.read(_MAX_ERROR)
    status = await child.wait()
    try:
        result = json.loads(text)
    except ValueError:
        raise program_failed(("containerfiles",), status, text) from None
    if result:
        raise _error(str(result["error"]), f"{subject}: {result['message']}", result.get("errno"))


async def _fed(child: Process, chunk: bytes) -> bool:
    try:
        child.stdin.write(chunk)
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return False
    return child.returncode is None


def _error(reason: str, message: str, code: int | None) -> ShoalError:
    match reason:
        case "PATH_NOT_FOUND":
            return NotFound(message, reason=reason)
        case "READ_ONLY":
            return FailedPrecondition(
                message, reason=reason, hint="the root file system or this mount is read-only; copy into a volume"
            )
        case "NOT_A_DIRECTORY" | "TYPE_CONFLICT" | "NOT_PERMITTED" | "TOO_MANY_LINKS" | "TOO_DEEP":
            return FailedPrecondition(message, reason=reason)
        case "BAD_ARCHIVE" | "PATH_ESCAPE":
            return InvalidArgument(message, reason=reason)
        case "TRUNCATED":
            return DataLoss(message, reason=reason)
        case "ARCHIVE_TOO_LARGE" | "DISK_FULL":
            return ResourceExhausted(message, reason=reason)
    return failure("copy", code or 0, detail=message)
