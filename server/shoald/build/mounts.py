"""The mounts of a RUN step: bind mounts of context, stages and images, caches, tmpfs, and heredoc files.

Sources are resolved inside their root (symbolic links never lead out of it) and mounted by what was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import FailedPrecondition, InvalidArgument, Unimplemented
from shoald.build import trees
from shoald.build.agents import Agents
from shoald.build.cachemounts import CacheMounts
from shoald.build.solver import Build, Roots
from shoald.containers.step import SecretFile
from shoald.dockerfile.steps import ContextBase, MountType, RunMount, RunStep, ScratchBase
from shoald.host.process import run
from shoald.host.trees import remove_tree
from shoald.model.container import Mount, MountKind
from shoald.snapshots.ports import Snapshotter

AGENT_TARGET = "/run/buildkit/ssh_agent"


@dataclass(frozen=True)
class Prepared:
    """What a step gets: mounts, the values of those that are secrets, and secrets in variables."""

    mounts: list[Mount] = field(default_factory=list)
    secrets: list[SecretFile] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict, repr=False)


class StepMounts:
    """Makes mounts ready; files of heredocs and copies live below `tmp_dir`."""

    def __init__(self, snapshots: Snapshotter, caches: CacheMounts, agents: Agents, tmp_dir: Path) -> None:
        self._snapshots = snapshots
        self._caches = caches
        self._agents = agents
        self._tmp_dir = tmp_dir

    @contextlib.asynccontextmanager
    async def prepared(self, build: Build, step: RunStep, roots: Roots) -> AsyncIterator[Prepared]:
        """The mounts for the time of the step. Raises InvalidArgument (MOUNT_SOURCE_MISSING), FailedPrecondition
        (SECRET_MISSING), Unimplemented."""
        made = Prepared()
        async with AsyncExitStack() as stack:
            for mount in step.mounts:
                if mount.type is MountType.SECRET:
                    _secret(build, mount, made)
                elif mount.type is MountType.SSH:
                    await self._agent(build, mount, made, stack)
                else:
                    made.mounts.append(await self._mount(build, mount, roots, stack))
            made.mounts.extend(await self._files(step, stack))
            yield made

    async def _mount(self, build: Build, mount: RunMount, roots: Roots, stack: AsyncExitStack) -> Mount:
        match mount.type:
            case MountType.TMPFS:
                return Mount(MountKind.TMPFS, mount.target, tmpfs_size_bytes=mount.size)
            case MountType.CACHE:
                return await self._cache(build, mount, roots, stack)
            case MountType.BIND:
                return await self._bind(build, mount, roots, stack)
        raise Unimplemented(f"RUN --mount=type={mount.type.value} is not supported", reason="INSTRUCTION_UNSUPPORTED")

    async def _agent(self, build: Build, mount: RunMount, made: Prepared, stack: AsyncExitStack) -> None:
        """The client's agent as a socket, and SSH_AUTH_SOCK; one that was not given is left out unless required."""
        handle = build.request.ssh.get(mount.id)
        if handle is None:
            if mount.required:
                raise FailedPrecondition(
                    f"ssh agent {mount.id}: not found",
                    reason="AGENT_MISSING",
                    hint=f"give it: shoal build --ssh {mount.id}",
                )
            return
        owner = (mount.uid or 0, mount.gid or 0)
        mode = mount.mode if mount.mode is not None else 0o600
        path = await stack.enter_async_context(self._agents.socket(handle, self._tmp_dir, owner, mode))
        number = sum(each.target.startswith(AGENT_TARGET) for each in made.mounts)
        target = mount.target or f"{AGENT_TARGET}.{number}"
        made.mounts.append(Mount(MountKind.BIND, target, str(path)))
        made.env.setdefault("SSH_AUTH_SOCK", target)

    async def _bind(self, build: Build, mount: RunMount, roots: Roots, stack: AsyncExitStack) -> Mount:
        if mount.read_only:
            found = await self._found(build, mount, roots, stack, uid_base=build.userns_base)
            return Mount(MountKind.BIND, mount.target, str(found), read_only=True)
        # What the step writes there is thrown away, as in BuildKit: a copy is as good as the original.
        found = await self._found(build, mount, roots, stack, uid_base=0)
        place = self._tmp_dir / f"bind-{secrets.token_hex(8)}"
        place.mkdir(mode=0o700, parents=True)
        stack.push_async_callback(asyncio.to_thread, remove_tree, place)
        await _duplicate(found, place / "copy")
        return Mount(MountKind.BIND, mount.target, str(place / "copy"))

    async def _found(
        self, build: Build, mount: RunMount, roots: Roots, stack: AsyncExitStack, *, uid_base: int
    ) -> Path:
        """The host path of what a mount takes its files from."""
        if isinstance(mount.base, ContextBase):
            root = build.files_of(mount.base)
        else:
            snapshot = None if isinstance(mount.base, ScratchBase) else await roots.snapshot_of(mount.base)
            root = await stack.enter_async_context(self._snapshots.mounted(snapshot, uid_base=uid_base))
        found = await asyncio.to_thread(trees.resolve, root, mount.source)
        if found is None:
            raise InvalidArgument(f'"{mount.source}": not found', reason="MOUNT_SOURCE_MISSING")
        return found

    async def _cache(self, build: Build, mount: RunMount, roots: Roots, stack: AsyncExitStack) -> Mount:
        origin, begin = "", None
        if not isinstance(mount.base, ScratchBase):
            # As in BuildKit: a cache that begins with the files of an image or stage is another one for each.
            start = await self._found(build, mount, roots, stack, uid_base=0)
            if not start.is_dir():
                raise InvalidArgument(f'"{mount.source}" is not a directory', reason="MOUNT_SOURCE_MISSING")
            origin = repr(mount.base)
            if not isinstance(mount.base, ContextBase):
                origin = await roots.snapshot_of(mount.base) or ""
            begin = functools.partial(_duplicate, start)
        directory = await self._caches.take(mount, origin, begin, stack)
        return Mount(MountKind.BIND, mount.target, str(directory), read_only=mount.read_only)

    async def _files(self, step: RunStep, stack: AsyncExitStack) -> list[Mount]:
        if not step.files:
            return []
        directory = self._tmp_dir / f"heredoc-{secrets.token_hex(8)}"
        directory.mkdir(mode=0o755, parents=True)
        stack.callback(remove_tree, directory)
        mounts = []
        for number, file in enumerate(step.files):
            path = directory / str(number)
            path.write_bytes(file.data.encode("utf-8", "surrogateescape"))
            path.chmod(0o755)
            mounts.append(Mount(MountKind.BIND, f"/dev/pipes/{file.name}", str(path), read_only=True))
        return mounts


def _secret(build: Build, mount: RunMount, made: Prepared) -> None:
    """A secret as a file, in a variable, or both; one that was not given is left out unless it is required."""
    found = build.request.secrets.get(mount.id)
    if found is None:
        if mount.required:
            raise FailedPrecondition(
                f"secret {mount.id}: not found",
                reason="SECRET_MISSING",
                hint=f"give it: shoal build --secret id={mount.id},src=FILE",
            )
        return
    if mount.env:
        if b"\0" in found.value:
            raise InvalidArgument(f"secret {mount.id} holds NUL bytes: no variable can", reason="SECRET_NOT_TEXT")
        made.env[mount.env] = found.value.decode("utf-8", "surrogateescape")
    if mount.target:
        mode = mount.mode if mount.mode is not None else 0o400
        made.secrets.append(SecretFile(len(made.mounts), found.value, mode))
        owner = (mount.uid or 0, mount.gid or 0)
        made.mounts.append(Mount(MountKind.SECRET, mount.target, read_only=True, owner=owner))


async def _duplicate(source: Path, target: Path) -> None:
    """Copy a file or a tree with all that it has, sharing content where the file system can. No link is followed.

    Raises Internal (PROGRAM_FAILED), with what cp says.
    """
    await run(["cp", "--archive", "--reflink=auto", "--no-target-directory", "--", str(source), str(target)])
