"""The mounts of a RUN step: bind mounts of context, stages and images, caches, tmpfs, and heredoc files.

Sources are resolved inside their root (symbolic links never lead out of it) and mounted by what was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from shoal.errors import InvalidArgument, Unimplemented
from shoald.build import trees
from shoald.build.solver import Build, Roots
from shoald.containers.watch import Locks
from shoald.dockerfile.steps import ContextBase, MountType, RunMount, RunStep, ScratchBase, Sharing
from shoald.host.trees import remove_tree
from shoald.model.container import Mount, MountKind
from shoald.snapshots.ports import Snapshotter


class StepMounts:
    """Makes mounts ready; cache directories live below `cache_dir`, files of heredocs below `tmp_dir`."""

    def __init__(self, snapshots: Snapshotter, cache_dir: Path, tmp_dir: Path) -> None:
        self._snapshots = snapshots
        self._cache_dir = cache_dir
        self._tmp_dir = tmp_dir
        self._locks = Locks()
        self._claimed: set[str] = set()

    @contextlib.asynccontextmanager
    async def prepared(self, build: Build, step: RunStep, roots: Roots) -> AsyncIterator[Sequence[Mount]]:
        """The mounts for the time of the step. Raises InvalidArgument (MOUNT_SOURCE_MISSING), Unimplemented."""
        async with AsyncExitStack() as stack:
            mounts = [await self._mount(build, mount, roots, stack) for mount in step.mounts]
            mounts += await self._files(step, stack)
            yield mounts

    async def _mount(self, build: Build, mount: RunMount, roots: Roots, stack: AsyncExitStack) -> Mount:
        match mount.type:
            case MountType.TMPFS:
                return Mount(MountKind.TMPFS, mount.target, tmpfs_size_bytes=mount.size)
            case MountType.CACHE:
                return await self._cache(mount, stack)
            case MountType.BIND:
                return await self._bind(build, mount, roots, stack)
        raise Unimplemented(
            f"RUN --mount=type={mount.type.value} is not supported yet", reason="INSTRUCTION_UNSUPPORTED"
        )

    async def _bind(self, build: Build, mount: RunMount, roots: Roots, stack: AsyncExitStack) -> Mount:
        if not mount.read_only:
            raise Unimplemented("RUN --mount=type=bind,rw is not supported yet", reason="INSTRUCTION_UNSUPPORTED")
        if isinstance(mount.base, ContextBase) and not mount.base.name:
            root = build.context
        else:
            snapshot = None if isinstance(mount.base, ScratchBase) else await roots.snapshot_of(mount.base)
            root = await stack.enter_async_context(self._snapshots.mounted(snapshot, uid_base=build.userns_base))
        found = await asyncio.to_thread(trees.resolve, root, mount.source)
        if found is None:
            raise InvalidArgument(f'"{mount.source}": not found', reason="MOUNT_SOURCE_MISSING")
        return Mount(MountKind.BIND, mount.target, str(found), read_only=True)

    async def _cache(self, mount: RunMount, stack: AsyncExitStack) -> Mount:
        if mount.source != "/" or not isinstance(mount.base, ContextBase | ScratchBase):
            raise Unimplemented(
                "RUN --mount=type=cache with from or source is not supported yet", reason="INSTRUCTION_UNSUPPORTED"
            )
        # Any text is a legal id: its hash is a safe name, and no id can name another's directory.
        name = hashlib.sha256((mount.id or mount.target).encode("utf-8", "surrogateescape")).hexdigest()
        match mount.sharing:
            case Sharing.LOCKED:
                await stack.enter_async_context(self._locks.get(name))
            case Sharing.PRIVATE:
                name = self._claim_private(name, stack)
        directory = self._cache_dir / name
        self._make_cache(directory, mount)
        return Mount(MountKind.BIND, mount.target, str(directory), read_only=mount.read_only)

    def _claim_private(self, name: str, stack: AsyncExitStack) -> str:
        """The first of the id's private directories that no step uses at this time."""
        free = next(own for number in itertools.count() if (own := f"{name}-{number}") not in self._claimed)
        self._claimed.add(free)
        stack.callback(self._claimed.discard, free)
        return free

    def _make_cache(self, directory: Path, mount: RunMount) -> None:
        """With owner and mode before it has its name: whoever finds it finds it whole."""
        if directory.exists():
            return
        self._cache_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        fresh = self._cache_dir / f".new-{secrets.token_hex(8)}"
        fresh.mkdir()
        os.chown(fresh, mount.uid or 0, mount.gid or 0)
        os.chmod(fresh, mount.mode if mount.mode is not None else 0o755)
        os.rename(fresh, directory)

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
