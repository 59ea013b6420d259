"""The mounts of a container, made ready on the host: volumes, host paths and clients' files as bind mounts.

Ids: what a container's root writes into a volume or a host path is owned by root there, and what is owned by id N there
is N in the container, as Docker has it without user namespaces. The user namespace's own ids never reach the disk.
Where the file system can't be idmapped (some network file systems), the path is mounted as it is: its files then
belong to nobody.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from msgspec.structs import replace

from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError
from shoald.containers.watch import Locks
from shoald.files.store import ContentTrees
from shoald.files.vault import SecretVault
from shoald.host.mounts import MountFlags, bind, clone_tree, set_attributes
from shoald.host.process import program_failed, run
from shoald.host.syscall import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, failure, openat2, translated
from shoald.host.userns import IdMap, UserNamespaces
from shoald.model.container import Container, Mount, MountKind
from shoald.runtime.spec import ResolvedUser
from shoald.volumes.ports import VolumeDriver

log = structlog.get_logger(__name__)

Populate = Callable[[Container, str, Path, bool], Awaitable[None]]
"""Fill a fresh volume with what the container's image has at a path; True: in place, never by a rename."""

_SLAVE = ("rslave", "slave")
_SECRET = MountFlags.NOSUID | MountFlags.NODEV | MountFlags.NOEXEC
_REMOUNT_SECONDS = 30.0
_LOCKED = {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC, "ro": os.ST_RDONLY}


@dataclass(frozen=True)
class Placed:
    """A mount and the path on the host that the OCI configuration names as its source ("" for tmpfs)."""

    mount: Mount
    source: str
    options: tuple[str, ...] = ()
    """nosuid, nodev, noexec and ro, where the file system has them: in a user namespace no mount can be without."""


def bind_source(mount: Mount) -> Path:
    """The host path of a bind mount. Raises InvalidArgument (BIND_SOURCE_MISSING)."""
    path = Path(mount.source)
    if not path.exists():
        raise InvalidArgument(
            f"bind source path does not exist on the host: {mount.source}",
            reason="BIND_SOURCE_MISSING",
            hint="make it on the host first, use a volume (-v NAME:/path), or write local:PATH for your own files",
            metadata={"path": mount.source},
        )
    return path


class Places:
    """Finds out, makes and ends what containers mount. Keeps nothing in memory."""

    def __init__(
        self,
        *,
        volumes: VolumeDriver,
        files: ContentTrees,
        vault: SecretVault,
        userns: UserNamespaces,
        userns_size: int,
        populate: Populate,
    ) -> None:
        self._volumes = volumes
        self._files = files
        self._vault = vault
        self._userns = userns
        self._userns_size = userns_size
        self._populate = populate
        self._filling = Locks()

    # --- before the container is made -------------------------------------------------------------------------------

    def check(self, container: Container) -> None:
        """Whether all that it mounts is there, or can be made. Raises InvalidArgument (BIND_SOURCE_MISSING and those of
        volumes), AlreadyExists (VOLUME_EXISTS), FailedPrecondition (TREE_MISSING, SECRET_MISSING)."""
        for mount in container.spec.mounts:
            if mount.kind is MountKind.BIND:
                bind_source(mount)
            elif mount.kind is MountKind.VOLUME:
                self._volumes.check(mount.source, mount.volume_options)
            elif mount.kind is MountKind.CONTENT:
                self._files.path(mount.content_digest)
            elif mount.kind is MountKind.SECRET:
                self._vault.check(mount.content_digest)

    async def claim(self, container: Container) -> None:
        """Its secrets are its own from now on. Raises FailedPrecondition (SECRET_MISSING)."""
        for number, mount in enumerate(container.spec.mounts):
            if mount.kind is MountKind.SECRET:
                await self._vault.claim(mount.content_digest, container.id, number)

    # --- a run ------------------------------------------------------------------------------------------------------

    async def place(self, container: Container, user: ResolvedUser, directory: Path) -> list[Placed]:
        """Make the bind mounts below `directory`, named by their number; whoever calls unmounts them and releases, also
        on failure."""
        mounts = container.spec.mounts
        if not mounts:
            return []
        directory.mkdir(mode=0o711, exist_ok=True)
        base = container.userns_base
        placed = []
        for number, mount in enumerate(mounts):
            if mount.kind is MountKind.TMPFS:
                placed.append(Placed(mount, ""))
                continue
            if mount.kind in (MountKind.CONTENT, MountKind.SECRET):
                mount = replace(mount, read_only=True)
            target = directory / f"{number:04d}"
            if mount.kind is MountKind.SECRET:
                uid, gid = mount.owner or (user.uid, user.gid)
                secret = self._vault.deliver(container.id, number, base + uid, base + gid)
                await asyncio.to_thread(_bind_secret, secret, target)
            else:
                fd = await self._open(container, mount)
                try:
                    await self._bind(fd, target, mount, IdMap(0, base, self._userns_size) if base else None)
                finally:
                    os.close(fd)
            placed.append(Placed(mount, str(target), await asyncio.to_thread(_options, target)))
        return placed

    async def _open(self, container: Container, mount: Mount) -> int:
        """A descriptor of the source, so that what was checked is what is mounted."""
        if mount.kind is MountKind.CONTENT:
            return os.open(self._files.path(mount.content_digest), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if mount.kind is MountKind.BIND:
            return os.open(bind_source(mount), os.O_PATH | os.O_CLOEXEC)
        path = await self._volume(container, mount)
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not mount.subpath:
            return fd
        try:
            return _below(fd, mount)
        finally:
            os.close(fd)

    async def _volume(self, container: Container, mount: Mount) -> Path:
        """The volume's directory. One that is empty at a container's first start is filled from the image, as by
        Docker: also one that an earlier start, which failed, had made."""
        name = mount.source
        async with self._filling.get(name):
            volume, _ = await self._volumes.ensure(
                name, anonymous=mount.anonymous, labels=mount.volume_labels, options=mount.volume_options
            )
            path = await self._volumes.acquire(name, container.id)
            fill = container.started_at is None and not mount.no_copy and not mount.subpath
            if fill and not _has_entries(path):
                in_place = bool(volume.options) or self._volumes.holders(name) > 1
                await self._populate(container, mount.target, path, in_place)
            return path

    async def _bind(self, fd: int, target: Path, mount: Mount, idmap: IdMap | None) -> None:
        _make_target(fd, target)
        recursive = mount.kind is MountKind.BIND
        slave = recursive and mount.propagation in _SLAVE

        def work(userns: int | None) -> None:
            bind(fd, target, read_only=mount.read_only, recursive=recursive, userns=userns, slave=slave)

        if idmap is not None:
            async with self._userns.hold([idmap]) as fds:
                try:
                    await asyncio.to_thread(work, fds[idmap])
                    return
                except ShoalError as error:
                    log.warning("bind_not_idmapped", source=mount.source, error=str(error))
        await asyncio.to_thread(work, None)

    async def release(self, container_id: str) -> None:
        """It runs no more, and its mounts are gone. Idempotent."""
        await self._volumes.release(container_id)

    async def forget(self, container_id: str) -> None:
        """It is removed. Idempotent."""
        await self._vault.forget(container_id)

    # --- while it runs ----------------------------------------------------------------------------------------------

    async def give_secret(self, container: Container, target: str, value: bytes, mode: int) -> None:
        """Give a container a secret that it has lost. Raises InvalidArgument (NOT_SECRET)."""
        number = mount_number(container, target, MountKind.SECRET)
        await self._vault.give(container.id, number, value, mode)

    def check_tree(self, digest: str) -> None:
        """Raises FailedPrecondition (TREE_MISSING)."""
        self._files.path(digest)

    async def switch(self, container: Container, number: int, digest: str) -> None:
        """Show another tree at a CONTENT mount of a running container. Raises FailedPrecondition (TREE_MISSING,
        NOT_MOUNTED, NOT_RUNNING)."""
        mount = container.spec.mounts[number]
        expected = os.lstat(self._files.path(mount.content_digest))
        new_inode = os.lstat(self._files.path(digest)).st_ino
        new = os.open(self._files.path(digest), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            tree = await self._detached(new, container.userns_base)
        finally:
            os.close(new)
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            arguments = (container.pid, container.pid_start_time, tree, proc, mount.target)
            argv = [sys.executable, "-I", "-m", "shoald.host.remount", *map(str, arguments)]
            argv += [str(expected.st_dev), str(expected.st_ino), str(new_inode)]
            done = await run(argv, check=False, pass_fds=[tree, proc], timeout=_REMOUNT_SECONDS)
        finally:
            os.close(tree)
            os.close(proc)
        _check_switched(argv, done.returncode, done.stdout, done.stderr)

    async def _detached(self, fd: int, base: int) -> int:
        """A mount of the tree that is nowhere yet, as a descriptor."""

        def work(userns: int | None) -> int:
            with translated("mount files"):
                tree = clone_tree(fd)
                try:
                    set_attributes(tree, MountFlags.READ_ONLY, userns=userns, private=True)
                except BaseException:
                    os.close(tree)
                    raise
                return tree

        if base:
            idmap = IdMap(0, base, self._userns_size)
            async with self._userns.hold([idmap]) as fds:
                try:
                    return await asyncio.to_thread(work, fds[idmap])
                except ShoalError as error:
                    log.warning("bind_not_idmapped", error=str(error))
        return await asyncio.to_thread(work, None)


def mount_number(container: Container, target: str, kind: MountKind) -> int:
    """The place of a mount in the container's list. Raises InvalidArgument (NOT_CONTENT, NOT_SECRET)."""
    wanted = target.rstrip("/")
    for number, mount in enumerate(container.spec.mounts):
        if mount.kind is kind and mount.target.rstrip("/") == wanted:
            return number
    raise InvalidArgument(
        f"container {container.name} has no {kind.value} mount at {target}", reason=f"NOT_{kind.value.upper()}"
    )


def _check_switched(argv: list[str], status: int, stdout: bytes, stderr: bytes) -> None:
    try:
        result = json.loads(stdout)
    except ValueError:
        raise program_failed(argv, status, stderr) from None
    if "error" not in result:
        return
    if result["error"] == "SYSCALL_FAILED":
        raise failure("switch the files of a container", int(result["errno"]), detail=str(result["message"]))
    raise FailedPrecondition(str(result["message"]), reason=str(result["error"]))


def _options(target: Path) -> tuple[str, ...]:
    flags = os.statvfs(target).f_flag
    return tuple(name for name, flag in _LOCKED.items() if flags & flag)


def _make_target(fd: int, target: Path) -> None:
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        target.mkdir(exist_ok=True)
    else:
        target.touch()


def _bind_secret(secret: Path, target: Path) -> None:
    target.touch()
    bind(secret, target, read_only=True, flags=_SECRET)


def _below(volume: int, mount: Mount) -> int:
    """A path in a volume, whose links lead nowhere else."""
    try:
        flags = os.O_PATH | os.O_CLOEXEC
        return openat2(volume, mount.subpath.strip("/"), flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise FailedPrecondition(
                f"volume {mount.source} has no {mount.subpath!r}",
                reason="SUBPATH_MISSING",
                hint="a subpath is never made: make it in the volume first",
            ) from error
        raise InvalidArgument(
            f"the subpath {mount.subpath!r} leads out of volume {mount.source}", reason="INVALID_SUBPATH"
        ) from error


def _has_entries(directory: Path) -> bool:
    with translated("read volume"), os.scandir(directory) as entries:
        return next(entries, None) is not None
